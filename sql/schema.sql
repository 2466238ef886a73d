-- The house itself: what CREATE EXTENSION made.
SELECT extname, extnamespace::regnamespace AS schema, extrelocatable FROM pg_extension WHERE extname = 'apikeys';
SELECT rolname, rolcanlogin, rolsuper FROM pg_roles WHERE rolname ~ '^apikeys_' ORDER BY 1;
