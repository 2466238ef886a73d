\if :cold
SELECT count(apikeys.authenticate('bench-' || n * :step)) FROM generate_series(1, :active) AS n;
\set cold 0
\endif
\set n random(1, :active) * :step
SELECT allowed, status, request_id FROM apikeys.verify('bench-' || :n, endpoint => '/v1/items');
