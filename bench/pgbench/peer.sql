\set n random(1, :active) * :step
SELECT * FROM peer.verify('bench-' || :n, '/v1/items');
