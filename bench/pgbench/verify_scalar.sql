\set n random(1, :active) * :step
SELECT apikeys.verify('bench-' || :n, endpoint => '/v1/items');
