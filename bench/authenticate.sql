\set n random(1, 10000)
SELECT * FROM apikeys.authenticate('bench-' || :n);
