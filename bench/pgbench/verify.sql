\set n random(1, :active) * :step
SELECT * FROM apikeys.verify('bench-' || :n, endpoint => '/v1/items');
