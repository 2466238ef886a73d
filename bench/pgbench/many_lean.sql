\set n random(1, :active / 100)
SELECT v.n, v.allowed, v.code FROM bench.batch AS b CROSS JOIN apikeys.verify_many(b.keys, b.endpoints) AS v WHERE b.id = :n;
