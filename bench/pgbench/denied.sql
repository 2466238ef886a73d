\if :cold
SELECT count(apikeys.authenticate('denied-' || n)) FROM generate_series(1, :active) AS n;
\set cold 0
\endif
\set n random(1, :active)
SELECT * FROM apikeys.verify('denied-' || :n, endpoint => '/v1/items');
