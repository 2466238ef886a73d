\if :cold
SELECT count(apikeys.authenticate('bench-' || n * :step)) FROM generate_series(1, :active) AS n;
\set cold 0
\endif
\set n random(1, :active) * :step
\startpipeline
BEGIN;
SELECT * FROM apikeys.begin_as('bench-' || :n, endpoint => '/v1/items');
SELECT id, item, total FROM bench.orders ORDER BY id DESC LIMIT 20;
COMMIT;
\endpipeline
