-- The house itself: what CREATE EXTENSION made.
SELECT extname, extnamespace::regnamespace AS schema, extrelocatable FROM pg_extension WHERE extname = 'apikeys';
SELECT d.objid::regnamespace AS schema, obj_description(d.objid, 'pg_namespace') AS comment
FROM pg_depend AS d JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
WHERE e.extname = 'apikeys' AND d.classid = 'pg_namespace'::regclass AND d.deptype = 'e' ORDER BY 1::text COLLATE "C";
SELECT rolname, rolcanlogin, rolsuper FROM pg_roles WHERE rolname ~ '^apikeys_' ORDER BY 1;

-- A function is no safer in a parallel plan than those that it calls.
SELECT f.oid::regprocedure AS too_safe, f.proparallel, g.oid::regprocedure AS calls, g.proparallel
FROM pg_proc AS f JOIN pg_proc AS g ON g.oid <> f.oid
WHERE f.pronamespace IN ('apikeys'::regnamespace, 'apikeys_internal'::regnamespace) AND g.pronamespace IN ('apikeys'::regnamespace, 'apikeys_internal'::regnamespace)
  AND position(f.proparallel IN 'urs') > position(g.proparallel IN 'urs')
  AND (pg_get_functiondef(f.oid) ~ format('\y%s\.%s\(', g.pronamespace::regnamespace, g.proname)
       OR EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_proc'::regclass AND d.refobjid = g.oid));
-- Those in C that take a new snapshot are unsafe.
SELECT p.oid::regprocedure AS too_safe FROM pg_proc AS p
WHERE p.pronamespace IN ('apikeys'::regnamespace, 'apikeys_internal'::regnamespace) AND p.proparallel <> 'u' AND p.prosrc IN (
    'apikeys_usage_limits', 'apikeys_usage_check', 'apikeys_usage_units', 'apikeys_key_verify', 'apikeys_key_verify_many', 'apikeys_key_authenticate',
    'apikeys_key_explain', 'apikeys_request_complete', 'apikeys_guard_delete', 'apikeys_guard_truncate');
