SELECT * FROM apikeys.verify('bench_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq18', endpoint => '/v1/items');
