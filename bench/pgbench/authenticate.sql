\set n random(1, :active) * :step
SELECT * FROM apikeys.authenticate('bench-' || :n);
