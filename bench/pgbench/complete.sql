\set n random(1, :active) * :step
SELECT request_id FROM apikeys.verify('bench-' || :n, endpoint => '/v1/items') \gset
SELECT apikeys.complete(:request_id, 200, 12.5);
