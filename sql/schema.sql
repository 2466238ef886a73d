-- The house itself: what CREATE EXTENSION made.
SELECT extname, extnamespace::regnamespace AS schema, extrelocatable FROM pg_extension WHERE extname = 'apikeys';
SELECT d.objid::regnamespace AS schema, obj_description(d.objid, 'pg_namespace') AS comment
FROM pg_depend AS d JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
WHERE e.extname = 'apikeys' AND d.classid = 'pg_namespace'::regclass AND d.deptype = 'e' ORDER BY 1::text COLLATE "C";
SELECT rolname, rolcanlogin, rolsuper FROM pg_roles WHERE rolname ~ '^apikeys_' ORDER BY 1;
