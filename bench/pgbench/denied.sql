\set n random(1, :active)
SELECT * FROM apikeys.verify('denied-' || :n, endpoint => '/v1/items');
