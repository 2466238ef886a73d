-- The main job of apikeys, as scripts/quickstart shows it. Each run makes two more keys.
\pset footer off
\set ECHO all

-- A key for the account demo, good for three requests a day. Its text is shown this once: only a digest is stored.
SELECT * FROM apikeys.create_key('demo', limits => '3/day, 1000/total', scopes => '{read}') \gset
\echo :key

-- A request presents it: one call checks, counts and records.
SELECT allowed, status, code, message, limit_window, remaining FROM apikeys.verify(:'key', endpoint => '/v1/items', scopes => '{read}');

-- It may not do everything, and nobody issued the other one.
SELECT allowed, status, code, message FROM apikeys.verify(:'key', scopes => '{write}');
SELECT allowed, status, code, message FROM apikeys.verify('ak_' || repeat('0', 36));

-- The quota runs out ...
SELECT n, allowed, status, message, remaining, retry_after_s FROM apikeys.verify_many(array_fill(:'key'::text, '{3}'));

-- ... and comes back: a day later, by the clock that a superuser may move for tests.
SET apikeys.debug_clock_offset = '25h';
SELECT allowed, status, message, remaining FROM apikeys.verify(:'key', endpoint => '/v1/items');
RESET apikeys.debug_clock_offset;

-- Every request is in the log, and in the usage of key and account.
SELECT apikeys.flush();
SELECT at::timestamp(0), code, status, endpoint FROM apikeys.request_log WHERE key_id = :key_id ORDER BY at;
SELECT admitted, denied, units FROM apikeys.usage_total WHERE subject = 'k' AND subject_id = :key_id;

-- What is known of the account's keys.
SELECT key_id, alias, hint, state, limits, last_used_at::timestamp(0) FROM apikeys.key_list WHERE account = 'demo' ORDER BY created_at;

-- A used key cannot be deleted, only deactivated: from the next request on it is refused.
\set ON_ERROR_STOP off
DELETE FROM apikeys.key WHERE key_id = :key_id;
\set ON_ERROR_STOP on
SELECT key_id, state FROM apikeys.deactivate_key(:key_id);
SELECT allowed, status, code, message FROM apikeys.verify(:'key');

-- One that was never used can go.
SELECT key_id AS unused FROM apikeys.create_key('demo') \gset
SELECT alias, state FROM apikeys.delete_key(:unused);
