\set n random(1, 1000000000)
SELECT * FROM apikeys.verify('unknown-' || :n, endpoint => '/v1/items');
