\set n random(1, 1000000000)
SELECT * FROM apikeys.verify('sk_live_' || :n, endpoint => '/v1/items');
