-- The tables: what is dumped, documented and refused.
SET search_path = pg_catalog;

-- Every table and sequence is dumped, with all its rows.
SELECT d.objid::regclass AS not_dumped
FROM pg_depend AS d JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid JOIN pg_extension AS e ON e.oid = d.refobjid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'apikeys' AND c.relkind IN ('r', 'p', 'S')
  AND NOT EXISTS (SELECT FROM unnest(e.extconfig, e.extcondition) AS t(relation, condition)
                  WHERE t.relation = c.oid AND t.condition = '');

-- A restore fires no trigger that changes anything: on INSERT act those alone that drop caches (those of foreign keys are the server's own).
SELECT t.tgrelid::regclass AS relation, t.tgname
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'apikeys'::regnamespace AND NOT t.tgisinternal AND t.tgtype & 4 <> 0
ORDER BY t.tgname;

-- Everything that the extension makes by name is documented.
SELECT pg_describe_object(d.classid, d.objid, 0) COLLATE "C" AS undocumented
FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'apikeys'
  AND obj_description(d.objid, d.classid::regclass::name) IS NULL
  AND d.classid <> 'pg_opfamily'::regclass
  AND NOT EXISTS (SELECT FROM pg_type AS t WHERE t.oid = d.objid AND (t.typrelid <> 0 OR t.typelem <> 0))
  AND NOT EXISTS (SELECT FROM pg_depend AS o WHERE o.classid = d.classid AND o.objid = d.objid AND o.deptype = 'i')
ORDER BY 1;

-- So are triggers and policies, which are parts of tables.
SELECT t.tgrelid::regclass AS relation, t.tgname AS undocumented FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'apikeys'::regnamespace AND NOT t.tgisinternal AND obj_description(t.oid, 'pg_trigger') IS NULL;
SELECT p.polrelid::regclass AS relation, p.polname AS undocumented FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid
WHERE c.relnamespace = 'apikeys'::regnamespace AND obj_description(p.oid, 'pg_policy') IS NULL;

-- And columns of tables and views.
SELECT a.attrelid::regclass AS relation, a.attname AS undocumented FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE c.relnamespace = 'apikeys'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
  AND col_description(a.attrelid, a.attnum) IS NULL
ORDER BY c.relname COLLATE "C", a.attnum;

-- Nobody has to quote a name: no column, argument, type or function is named by a word that SQL reserves.
SELECT d.kind, d.name AS reserved
FROM (SELECT 'column of ' || c.relname, a.attname FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
      WHERE c.relnamespace = 'apikeys'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
      UNION ALL
      SELECT 'argument of ' || p.proname, n.name FROM pg_proc AS p, unnest(p.proargnames) AS n (name)
      WHERE p.pronamespace IN ('apikeys'::regnamespace, 'apikeys_internal'::regnamespace)
      UNION ALL
      SELECT 'function', p.proname FROM pg_proc AS p WHERE p.pronamespace IN ('apikeys'::regnamespace, 'apikeys_internal'::regnamespace)
      UNION ALL
      SELECT 'relation', c.relname FROM pg_class AS c WHERE c.relnamespace = 'apikeys'::regnamespace
      UNION ALL
      SELECT 'type', t.typname FROM pg_type AS t WHERE t.typnamespace = 'apikeys'::regnamespace) AS d (kind, name)
JOIN pg_get_keywords() AS k ON k.word = d.name
WHERE k.catcode IN ('R', 'T')
ORDER BY d.kind COLLATE "C", d.name COLLATE "C";

-- What constraints refuse. First the good rows they are made from.
INSERT INTO apikeys.tier VALUES ('silver', 2, '1000/day', NULL), ('gold', 3, '', NULL);
INSERT INTO apikeys.plan (name) VALUES ('basic');
INSERT INTO apikeys.account (name, plan) VALUES ('alice', 'basic');
INSERT INTO apikeys.product VALUES ('maps');
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias)
SELECT 1, account_id, sha256('1')::apikeys.digest, 'ak', 'ak_…1', 'one' FROM apikeys.account;
INSERT INTO apikeys.upgrade_request (key_id, tier, motivation, due_at) VALUES (1, 'gold', 'more', '2026-01-01');
SELECT name, key_prefix, limits, allow_unexpiring FROM apikeys.plan;
SELECT key_id, category, active, rotations, allowed_domains, allowed_ips, scopes, metadata, hash_rule, created_by = SESSION_USER AS mine FROM apikeys.key;

-- Run a statement, undo it, and say which constraint refused it.
CREATE FUNCTION pg_temp.refusal(statement text, OUT code text, OUT rule text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RAISE SQLSTATE '00ACC';
EXCEPTION
    WHEN SQLSTATE '00ACC' THEN code := 'accepted';
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, rule = CONSTRAINT_NAME;
END
$$;
-- The triggers that refuse most of them first are out of the way.
ALTER TABLE apikeys.key DISABLE TRIGGER key_check_update;
CREATE FUNCTION pg_temp.set_checks(state text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    checking record;
BEGIN
    FOR checking IN SELECT t.tgrelid::regclass AS relation, t.tgname FROM pg_trigger AS t WHERE t.tgname LIKE '%\_check\_texts' LOOP
        EXECUTE format('ALTER TABLE %s %s TRIGGER %I', checking.relation, state, checking.tgname);
    END LOOP;
END
$$;
SELECT pg_temp.set_checks('DISABLE');
CREATE TEMP TABLE refused AS
SELECT t.n, t.relation, t.change, r.code, r.rule
FROM (VALUES
    (1, 'tier', 'name = '''''), (2, 'tier', 'rank = NULL'), (3, 'tier', 'rank = 1'), (4, 'tier', 'limits = NULL'),
    (10, 'plan', 'name = '''''), (11, 'plan', 'key_prefix = ''Ak'''), (12, 'plan', 'key_prefix = ''a__b'''), (13, 'plan', 'key_prefix = ''ak_'''),
    (14, 'plan', 'key_prefix = ''abcdefghijklmnopqrstuvwxy'''), (15, 'plan', 'key_prefix = '''''), (16, 'plan', 'max_keys = -1'),
    (17, 'plan', 'max_lifetime = ''0'''), (18, 'plan', 'lifetimes = ''{1 day,0}'''), (19, 'plan', 'lifetimes = ''{1 day,NULL}'''),
    (24, 'plan', 'lifetimes = ''{}'''), (20, 'plan', 'default_lifetime = ''-1 day'''), (21, 'plan', 'default_tier = ''lead'''), (22, 'plan', 'key_prefix = ''abcdefghijklmnopqrstuvwx'''),
    (23, 'plan', 'key_prefix = E''ak\n'''), (27, 'plan', 'billing_types = ''{}'''), (140, 'plan', 'purposes = ''{}'''), (141, 'plan', 'project_kinds = ''{}'''), (142, 'plan', 'upgrade_requires = ''{motivation}'''), (143, 'plan', 'tiers = ''{gold,NULL}'''), (28, 'plan', 'billing_types = ''{free,NULL}'''), (25, 'plan', 'lifetimes = ''{7 days}'', default_lifetime = ''8 days'''), (26, 'plan', 'max_lifetime = ''7 days'', default_lifetime = ''8 days'''),
    (32, 'account', 'plan = ''none'''), (33, 'account', 'metadata = ''[]'''),
    (40, 'product', 'name = '''''), (41, 'product', 'name = repeat(''x'', 257)'),
    (53, 'key', 'rotations = -1'),
    (54, 'key', 'alias = '''''), (55, 'key', 'alias = repeat(''x'', 513)'), (56, 'key', 'category = '''''), (75, 'key', 'category = repeat(''x'', 257)'), (57, 'key', 'tier = ''lead'''),
    (58, 'key', 'allowed_ips = ''{10.0.0.0/8,NULL}'''), (59, 'key', 'scopes = ''{read,NULL}'''), (60, 'key', 'billing_type = '''''),
    (61, 'key', 'metadata = ''"x"'''), (62, 'key', 'hash_rule = ''md5'''), (63, 'key', 'previous_digest = digest'),
    (64, 'key', 'previous_valid_until = now()'), (65, 'key', 'suspended_at = now()'), (66, 'key', 'suspended_reason = ''abuse'''),
    (67, 'key', 'suspended_at = now(), suspended_reason = E'' \t'''),
    (73, 'key', 'previous_digest = digest, previous_hash_rule = ''md5'', previous_valid_until = now()'),
    (74, 'key', 'allowed_domains = ''{"a b"}'''),
    (68, 'key', 'expires_at = ''infinity'''), (69, 'key', 'digest = NULL'), (70, 'key', 'limits = ''0/day'''),
    (80, 'upgrade_request', 'motivation = E'' \r\n'''), (81, 'upgrade_request', 'expected_requests = -1'), (82, 'upgrade_request', 'expected_users = -1'),
    (83, 'upgrade_request', 'state = ''lost'', decided_at = now()'), (84, 'upgrade_request', 'limits = ''1/day'''), (85, 'upgrade_request', 'tier = NULL'),
    (86, 'upgrade_request', 'decided_at = now()'), (87, 'upgrade_request', 'state = ''approved''')
) AS t(n, relation, change), pg_temp.refusal(format('UPDATE apikeys.%I SET %s %s', relation, change,
                                                  CASE relation WHEN 'tier' THEN 'WHERE name = ''gold''' ELSE '' END)) AS r
UNION ALL
SELECT t.n, t.relation, t.row, r.code, r.rule
FROM (VALUES
    (5, 'tier (name, rank, limits)', '''lead'', 2, ''''' ),
    (30, 'account (name, plan)', ''''', ''basic'''), (31, 'account (name, plan)', 'repeat(''x'', 513), ''basic'''),
    (50, 'key (key_id, account_id, digest, prefix, hint, alias)', '0, (SELECT account_id FROM apikeys.account), sha256(''2'')::apikeys.digest, ''ak'', '''', ''two'''),
    (51, 'key (key_id, account_id, digest, prefix, hint, alias)', '9007199254740992, (SELECT account_id FROM apikeys.account), sha256(''2'')::apikeys.digest, ''ak'', '''', ''two'''),
    (52, 'key (key_id, account_id, digest, prefix, hint, alias)', '2, 0, sha256(''2'')::apikeys.digest, ''ak'', '''', ''two'''),
    (71, 'key (key_id, account_id, digest, prefix, hint, alias)', '2, (SELECT account_id FROM apikeys.account), sha256(''2'')::apikeys.digest, ''ak'', '''', ''one'''),
    (72, 'key (key_id, account_id, digest, prefix, hint, alias)', '2, (SELECT account_id FROM apikeys.account), sha256(''1'')::apikeys.digest, ''ak'', '''', ''two'''),
    (88, 'upgrade_request (key_id, tier, motivation, due_at)', '1, ''gold'', ''more'', now()'),
    (90, 'key_product', '1, ''routes'''), (91, 'key_product', '2, ''maps'''), (92, 'member', '''apikeys_manager'', 0'),
    (93, 'upgrade_rule (reason, purpose)', 'E''\t'', ''scraping'''), (89, 'upgrade_rule (reason)', '''no'''), (94, 'adjustment (subject, subject_id, limit_window, units, until)', '''x'', 1, ''day'', 1, now()'),
    (95, 'adjustment (subject, subject_id, limit_window, units, until)', '''k'', 1, ''day'', 0, now()'),
    (96, 'adjustment (subject, subject_id, limit_window, units, counts_from)', '''k'', 1, ''day'', -1, 1'),
    (97, 'adjustment (subject, subject_id, limit_window, units, until, counts_from)', '''k'', 1, ''day'', 1, now(), 1'),
    (98, 'adjustment (subject, subject_id, limit_window, units)', '''k'', 1, ''day'', 1'),
    (99, 'adjustment (subject, subject_id, limit_window, units, counts_from)', '''k'', 1, ''day'', 1, -1'),
    (100, 'adjustment (subject, subject_id, limit_window, units, counts_from)', '''k'', 1, '''', 1, 1'),
    (101, 'adjustment (subject, subject_id, limit_window, units, counts_from, reason)', '''k'', 1, ''day'', 1, 1, E''\n'''),
    (110, 'address_block (network, reason)', '''::ffff:192.0.2.0/120'', ''not plain'''), (111, 'address_block (network, reason)', '''192.0.2.0/24'', E'' \n'''),
    (115, 'audit_log (action, object, object_id, via)', '''x'', ''x'', ''x'', ''wish'''), (120, 'notice (kind)', ''''''), (122, 'notice_consumer (name)', ''' '''), (121, 'notice (kind, details)', '''created'', ''1''')
) AS t(n, relation, row), pg_temp.refusal(format('INSERT INTO apikeys.%s VALUES (%s)', relation, row)) AS r;
ALTER TABLE apikeys.key ENABLE TRIGGER key_check_update;
SELECT pg_temp.set_checks('ENABLE');
SELECT split_part(relation, ' ', 1) AS relation, change, code, rule FROM refused ORDER BY n;

-- No check constraint was left out.
SELECT conrelid::regclass AS relation, conname AS never_violated
FROM pg_constraint
WHERE connamespace = 'apikeys'::regnamespace AND contype = 'c' AND conname NOT IN (SELECT rule FROM refused WHERE rule <> '')
ORDER BY 1, 2;

-- What refers to a key goes with it, where it is no record. A member must be unbound on purpose.
INSERT INTO apikeys.key_product VALUES (1, 'maps');
INSERT INTO apikeys.member SELECT 'apikeys_manager', account_id FROM apikeys.account;
SELECT pg_temp.refusal('DELETE FROM apikeys.account');
DELETE FROM apikeys.key;
SELECT pg_temp.refusal('DELETE FROM apikeys.account');
DELETE FROM apikeys.member;
DELETE FROM apikeys.account;
SELECT (SELECT count(*) FROM apikeys.key_product) AS products,
       (SELECT count(*) FROM apikeys.upgrade_request) AS upgrade_requests;
DELETE FROM apikeys.product;
DELETE FROM apikeys.plan;
DELETE FROM apikeys.tier;
