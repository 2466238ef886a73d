SELECT * FROM apikeys.verify('bench-1', endpoint => '/v1/items');
