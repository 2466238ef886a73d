\set n random(1, 1000)
SELECT * FROM apikeys.create_key('account-' || :n, tier => 'bench');
