\set n random(1, 10000)
SELECT * FROM apikeys.verify('bench-' || :n, endpoint => '/v1/items');
