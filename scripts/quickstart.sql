-- The main job of apikeys, as scripts/quickstart shows it. Each run makes one more key.
\pset footer off
\set ECHO all

-- A key for the account acme. Its text is shown this once: only a digest is stored.
SELECT * FROM apikeys.create_key('acme', lifetime => '30 days', scopes => '{read}') \gset
\echo :key

-- A request presents it.
SELECT allowed, status, code, message, key_id, account FROM apikeys.authenticate(:'key', scopes => '{read}');

-- It may not do everything.
SELECT allowed, status, code, message FROM apikeys.authenticate(:'key', scopes => '{write}');

-- Nobody issued this one.
SELECT allowed, status, code, message FROM apikeys.authenticate('ak_' || repeat('0', 36));

-- What is known of the account's keys.
SELECT key_id, alias, hint, state, created_at::timestamp(0), expires_at::timestamp(0) FROM apikeys.key_list WHERE account = 'acme' ORDER BY created_at;

-- Deactivated, the key is refused from the next request on.
SELECT key_id, state FROM apikeys.deactivate_key(:key_id);
SELECT allowed, status, code, message FROM apikeys.authenticate(:'key');
