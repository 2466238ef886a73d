\set n random(1, :active)
INSERT INTO bench.request VALUES (now(), :n, :n, gen_random_uuid(), 'valid', 200, '/v1/items', NULL, NULL, 1, NULL, 'production', NULL, false, false);
