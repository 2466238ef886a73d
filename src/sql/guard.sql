-- What must never happen to keys and accounts, for any role: a used key is deleted, or an identity is changed. The triggers are
-- ENABLE ALWAYS, so that a role that may set session_replication_role cannot bypass them.

CREATE FUNCTION apikeys_internal.guard_delete() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'apikeys_guard_delete';
CREATE FUNCTION apikeys_internal.guard_truncate() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'apikeys_guard_truncate';
CREATE FUNCTION apikeys_internal.guard_change() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'apikeys_guard_change';
COMMENT ON FUNCTION apikeys_internal.guard_delete() IS
'Trigger: a key that has been used cannot be deleted. Errors: 23503.';
COMMENT ON FUNCTION apikeys_internal.guard_truncate() IS
'Trigger: keys cannot be truncated once one of them has been used. Errors: 23503.';
COMMENT ON FUNCTION apikeys_internal.guard_change() IS
'Trigger: refuses to change columns that never change. Errors: 23514.';

CREATE TRIGGER key_guard_delete BEFORE DELETE ON apikeys.key
FOR EACH ROW EXECUTE FUNCTION apikeys_internal.guard_delete();
CREATE TRIGGER key_guard_truncate BEFORE TRUNCATE ON apikeys.key
FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.guard_truncate();
CREATE TRIGGER key_guard_change BEFORE UPDATE OF key_id, account_id, created_at ON apikeys.key
FOR EACH ROW WHEN ((OLD.key_id, OLD.account_id, OLD.created_at) IS DISTINCT FROM (NEW.key_id, NEW.account_id, NEW.created_at))
EXECUTE FUNCTION apikeys_internal.guard_change('the id, the account and the creation time of a key never change',
    'Usage, logs and locator belong to the key as it was made. Make another key.');
CREATE TRIGGER account_guard_change BEFORE UPDATE OF account_id, name ON apikeys.account
FOR EACH ROW WHEN ((OLD.account_id, OLD.name) IS DISTINCT FROM (NEW.account_id, NEW.name))
EXECUTE FUNCTION apikeys_internal.guard_change('the id and the name of an account never change',
    'The locators of its keys are made of the name. Make another account, and keys for it.');

COMMENT ON TRIGGER key_guard_delete ON apikeys.key IS 'A key that has been used cannot be deleted.';
COMMENT ON TRIGGER key_guard_truncate ON apikeys.key IS 'Keys cannot be truncated once one of them has been used.';
COMMENT ON TRIGGER key_guard_change ON apikeys.key IS 'A key keeps its id, its account and its creation time.';
COMMENT ON TRIGGER account_guard_change ON apikeys.account IS 'An account keeps its id and its name.';

ALTER TABLE apikeys.key ENABLE ALWAYS TRIGGER key_guard_delete;
ALTER TABLE apikeys.key ENABLE ALWAYS TRIGGER key_guard_truncate;
ALTER TABLE apikeys.key ENABLE ALWAYS TRIGGER key_guard_change;
ALTER TABLE apikeys.account ENABLE ALWAYS TRIGGER account_guard_change;
