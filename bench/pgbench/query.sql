\set account random(1, 1000)
\startpipeline
BEGIN;
SELECT id, item, total FROM bench.orders WHERE account_id = :account ORDER BY id DESC LIMIT 20;
COMMIT;
\endpipeline
