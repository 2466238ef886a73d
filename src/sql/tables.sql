-- The tables. All of them are dumped with the database. The extension ships no rows. No trigger acts on INSERT, except those
-- that drop caches, because a restore would fire it. A rule that a changed row could break is a constraint here, or a trigger
-- for UPDATE or DELETE in the part that owns the rule.
--
-- Long: each column has a COMMENT.

CREATE FUNCTION apikeys_internal.has_text(value text) RETURNS boolean
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_text_is_there';
COMMENT ON FUNCTION apikeys_internal.has_text(text) IS
'Whether a text has more than white space (of ASCII); false for NULL.';

CREATE FUNCTION apikeys_internal.prefix_is_valid(prefix text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.octet_length(prefix) OPERATOR(pg_catalog.<=) 24 AND prefix OPERATOR(pg_catalog.~) '^[a-z][a-z0-9]*(_[a-z0-9]+)*$';
COMMENT ON FUNCTION apikeys_internal.prefix_is_valid(text) IS
'Whether a text can be the prefix of keys: lower-case letters and digits in groups joined by _, a letter first, at '
'most 24 characters.';

CREATE FUNCTION apikeys_internal.lifetimes_are_valid(lifetimes interval[]) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN pg_catalog.cardinality(lifetimes) OPERATOR(pg_catalog.>) 0
    AND NOT EXISTS (SELECT FROM pg_catalog.unnest(lifetimes) AS l(lifetime)
                    WHERE l.lifetime IS NULL OR l.lifetime OPERATOR(pg_catalog.<=) '0'::interval OR l.lifetime OPERATOR(pg_catalog.>) '1000 years'::interval);
COMMENT ON FUNCTION apikeys_internal.lifetimes_are_valid(interval[]) IS
'Whether a list has at least one lifetime, and each is positive and at most 1000 years.';

-- Lifetimes are compared in seconds, because they are counted so. Compared as intervals, a year would be 360 days, though it
-- lasts 365.25.
CREATE FUNCTION apikeys_internal.longest_lifetime(lifetimes interval[]) RETURNS interval
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (SELECT l.lifetime FROM pg_catalog.unnest(lifetimes) AS l(lifetime)
        ORDER BY EXTRACT(epoch FROM l.lifetime) DESC NULLS LAST LIMIT 1);
COMMENT ON FUNCTION apikeys_internal.longest_lifetime(interval[]) IS
'The longest lifetime of a list, by seconds; NULL if there is none.';

CREATE FUNCTION apikeys_internal.lifetime_is_offered(lifetime interval, lifetimes interval[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN lifetime IS NULL OR lifetimes IS NULL
    OR EXISTS (SELECT FROM pg_catalog.unnest(lifetimes) AS l(lifetime)
               WHERE EXTRACT(epoch FROM l.lifetime) OPERATOR(pg_catalog.=) EXTRACT(epoch FROM lifetime_is_offered.lifetime));
COMMENT ON FUNCTION apikeys_internal.lifetime_is_offered(interval, interval[]) IS
'Whether a list has a lifetime of the same number of seconds; true if the lifetime or the list is NULL.';

CREATE FUNCTION apikeys_internal.domains_are_valid(domains text[]) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_domains_check';
COMMENT ON FUNCTION apikeys_internal.domains_are_valid(text[]) IS
'Whether each element of a list is a domain such as example.com, or *.example.com for all domains below it.';

CREATE FUNCTION apikeys_internal.hash_rule_is_known(hash_rule text) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_hash_rule_check';
COMMENT ON FUNCTION apikeys_internal.hash_rule_is_known(text) IS 'Whether there is a hash rule of that name (src/pure/hashrule.c).';

-- ::ffff:a.b.c.d stands for the IPv4 address a.b.c.d.
CREATE FUNCTION apikeys_internal.plain_network(address inet) RETURNS cidr
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE WHEN address OPERATOR(pg_catalog.<<=) inet '::ffff:0.0.0.0/96'
    THEN pg_catalog.network(pg_catalog.set_masklen(
        inet '0.0.0.0' OPERATOR(pg_catalog.+) (address OPERATOR(pg_catalog.-) inet '::ffff:0.0.0.0'), pg_catalog.masklen(address) OPERATOR(pg_catalog.-) 96))
    ELSE pg_catalog.network(address) END;
COMMENT ON FUNCTION apikeys_internal.plain_network(inet) IS
'The network of an address with a mask: the bits beyond the mask are cleared, and what lies in ::ffff:0:0/96 '
'becomes IPv4.';

CREATE TABLE apikeys.tier (
    name        text PRIMARY KEY CHECK (name <> ''),
    rank        int NOT NULL UNIQUE,
    limits      apikeys.limits NOT NULL,
    description text
);
COMMENT ON TABLE apikeys.tier IS 'Named quota levels for keys, e.g. bronze, silver, gold.';
COMMENT ON COLUMN apikeys.tier.name IS 'Its name, by which keys and plans refer to it.';
COMMENT ON COLUMN apikeys.tier.rank IS 'Order of the tiers: a higher rank is a higher level.';
COMMENT ON COLUMN apikeys.tier.limits IS 'Limits of each key on this tier that has none of its own.';
COMMENT ON COLUMN apikeys.tier.description IS 'For people; NULL: none.';

CREATE TABLE apikeys.plan (
    name                  text PRIMARY KEY CHECK (name <> ''),
    key_prefix            text NOT NULL DEFAULT 'ak' CHECK (apikeys_internal.prefix_is_valid(key_prefix)),
    max_keys              int CHECK (max_keys >= 0),
    max_lifetime          interval CHECK (max_lifetime > '0' AND max_lifetime <= '1000 years'),
    lifetimes             interval[] CHECK (apikeys_internal.lifetimes_are_valid(lifetimes)),
    default_lifetime      interval CHECK (default_lifetime > '0' AND default_lifetime <= '1000 years'),
    allow_unexpiring      boolean NOT NULL DEFAULT true,
    limits                apikeys.limits NOT NULL DEFAULT '',
    default_tier          text REFERENCES apikeys.tier ON UPDATE CASCADE,
    one_key_per_product   boolean NOT NULL DEFAULT false,
    custom_limits_allowed boolean NOT NULL DEFAULT true,
    manage_keys           boolean NOT NULL DEFAULT false,
    billing_types         text[] CHECK (billing_types <> '{}' AND pg_catalog.array_position(billing_types, NULL) IS NULL),
    tiers                 text[] CHECK (pg_catalog.array_position(tiers, NULL) IS NULL),
    purposes              text[] CHECK (purposes <> '{}' AND pg_catalog.array_position(purposes, NULL) IS NULL),
    project_kinds         text[] CHECK (project_kinds <> '{}' AND pg_catalog.array_position(project_kinds, NULL) IS NULL),
    upgrade_requires      text[] NOT NULL DEFAULT '{}'
                          CHECK (upgrade_requires <@ '{project,project_kind,purpose,expected_requests,expected_users}'),
    CONSTRAINT plan_default_lifetime_offered_check CHECK (apikeys_internal.lifetime_is_offered(default_lifetime, lifetimes)),
    CONSTRAINT plan_max_lifetime_exceeded_check CHECK (
        EXTRACT(epoch FROM apikeys_internal.longest_lifetime(pg_catalog.array_append(lifetimes, default_lifetime))) <= EXTRACT(epoch FROM max_lifetime))
);
COMMENT ON TABLE apikeys.plan IS
'The rules for accounts: how many keys, which lifetimes, limits of the account as a whole.';
COMMENT ON COLUMN apikeys.plan.name IS 'Its name, by which accounts refer to it.';
COMMENT ON COLUMN apikeys.plan.key_prefix IS
'Prefix of new keys: lower-case letters and digits in groups joined by _.';
COMMENT ON COLUMN apikeys.plan.max_keys IS
'How many keys an account may have that are neither inactive nor expired; NULL: any number. A key made in place of '
'a deactivated one begins with unused limits, so limits that must hold over all keys belong in column limits.';
COMMENT ON COLUMN apikeys.plan.max_lifetime IS
'The longest lifetime of a key, from its creation or from a change of its expiry; NULL: the longest of lifetimes, '
'if there are any. Lifetimes are counted in seconds: a day is 86,400 s.';
COMMENT ON COLUMN apikeys.plan.lifetimes IS
'The lifetimes offered to new and rotated keys, e.g. {7 days,30 days}, none longer than max_lifetime; NULL: any up '
'to that. An UPDATE of expires_at may set any date up to the longest of them.';
COMMENT ON COLUMN apikeys.plan.default_lifetime IS
'Lifetime of a key that is created without one; it must be one of lifetimes. NULL: the key does not expire, if '
'allow_unexpiring permits that.';
COMMENT ON COLUMN apikeys.plan.allow_unexpiring IS
'Whether a key may have no expiry; false is implied by a max_lifetime.';
COMMENT ON COLUMN apikeys.plan.limits IS
'Limits of each account on this plan that has none of its own; they count all its keys together.';
COMMENT ON COLUMN apikeys.plan.default_tier IS
'Tier of a key that is created with neither tier nor limits; NULL: none, the key has no limits.';
COMMENT ON COLUMN apikeys.plan.one_key_per_product IS
'Whether each product may be assigned to only one key of an account. Each key must have a product then, because a '
'key without products is good for all.';
COMMENT ON COLUMN apikeys.plan.custom_limits_allowed IS
'Whether a key may have limits of its own instead of a tier''s.';
COMMENT ON COLUMN apikeys.plan.manage_keys IS
'Whether owners may give their keys the scope apikeys:manage, by which a key manages the keys of its account; false: only the provider '
'may.';
COMMENT ON COLUMN apikeys.plan.billing_types IS 'The billing types that a key may have; NULL: any.';
COMMENT ON COLUMN apikeys.plan.tiers IS
'The tiers that may be asked for by request_upgrade; NULL: all; {}: none. The provider may give a key any tier.';
COMMENT ON COLUMN apikeys.plan.purposes IS
'What an upgrade request may say is the purpose of the requests: one of these, letter by letter; NULL: anything.';
COMMENT ON COLUMN apikeys.plan.project_kinds IS
'What an upgrade request may say is the kind of project: one of these, letter by letter; NULL: anything.';
COMMENT ON COLUMN apikeys.plan.upgrade_requires IS
'What an upgrade request must say besides its motivation: some of project, project_kind, purpose, expected_requests, expected_users.';

CREATE TABLE apikeys.account (
    account_id   bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE CHECK (name <> '' AND pg_catalog.octet_length(name) <= 512),
    display_name text,
    contact      text,
    plan         text NOT NULL REFERENCES apikeys.plan ON UPDATE CASCADE,
    limits       apikeys.limits,
    active       boolean NOT NULL DEFAULT true,
    metadata     jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(metadata) = 'object'),
    created_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE apikeys.account IS 'Who owns keys: a customer, a user, a project.';
COMMENT ON COLUMN apikeys.account.account_id IS 'Its number, by which the log and the usage refer to it.';
COMMENT ON COLUMN apikeys.account.name IS
'The application''s own id of the owner. It never changes, because the locators in its keys are made from it.';
COMMENT ON COLUMN apikeys.account.display_name IS 'Its name for people; NULL: none. Erased by erase_account_data.';
COMMENT ON COLUMN apikeys.account.contact IS
'How to reach its people, in one line; NULL: unknown. Erased by erase_account_data.';
COMMENT ON COLUMN apikeys.account.plan IS 'The rules for its keys.';
COMMENT ON COLUMN apikeys.account.limits IS 'Limits over all keys of the account together; NULL: the plan''s.';
COMMENT ON COLUMN apikeys.account.active IS
'Whether its keys may be used: false refuses them all with the verdict inactive.';
COMMENT ON COLUMN apikeys.account.metadata IS
'An object with anything the application wants to keep with the account. Erased by erase_account_data.';
COMMENT ON COLUMN apikeys.account.created_at IS 'When it was made.';

CREATE TABLE apikeys.product (
    name        text PRIMARY KEY CHECK (name <> '' AND pg_catalog.octet_length(name) <= 256),
    description text
);
COMMENT ON TABLE apikeys.product IS 'The APIs that a key can be assigned to.';
COMMENT ON COLUMN apikeys.product.name IS 'Its name, by which requests refer to it.';
COMMENT ON COLUMN apikeys.product.description IS 'For people; NULL: none.';

-- key_id = locator * 2^37 + n: n from this sequence, 53 bits in all, so that JavaScript reads it without loss.
CREATE SEQUENCE apikeys.key_number_seq AS bigint MAXVALUE 137438953471 CACHE 1;
COMMENT ON SEQUENCE apikeys.key_number_seq IS 'The lower 37 bits of the key ids.';

CREATE TABLE apikeys.key (
    key_id               bigint PRIMARY KEY CHECK (key_id BETWEEN 1 AND 9007199254740991),
    account_id           bigint NOT NULL REFERENCES apikeys.account,
    created_at           timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    expires_at           timestamptz,
    expiry_set_at        timestamptz,
    previous_valid_until timestamptz,
    rotated_at           timestamptz,
    suspended_at         timestamptz,
    archived_at          timestamptz,
    rotations            int NOT NULL DEFAULT 0 CHECK (rotations >= 0),
    active               boolean NOT NULL DEFAULT true,
    digest               apikeys.digest NOT NULL,
    previous_digest      apikeys.digest,
    prefix               text NOT NULL,
    hint                 text NOT NULL,
    alias                text NOT NULL CHECK (alias <> '' AND pg_catalog.octet_length(alias) <= 512),
    category             text NOT NULL DEFAULT 'production' CHECK (category <> '' AND pg_catalog.octet_length(category) <= 256),
    suspended_reason     text CHECK (suspended_reason IS NULL OR apikeys_internal.has_text(suspended_reason)),
    tier                 text REFERENCES apikeys.tier ON UPDATE CASCADE,
    limits               apikeys.limits,
    owner_limits         apikeys.limits,
    allowed_domains      text[] NOT NULL DEFAULT '{}' CHECK (apikeys_internal.domains_are_valid(allowed_domains)),
    allowed_ips          cidr[] NOT NULL DEFAULT '{}' CHECK (pg_catalog.array_position(allowed_ips, NULL) IS NULL),
    scopes               text[] NOT NULL DEFAULT '{}' CHECK (pg_catalog.array_position(scopes, NULL) IS NULL),
    billing_type         text CHECK (billing_type <> ''),
    metadata             jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(metadata) = 'object'),
    hash_rule            text NOT NULL DEFAULT 'sha256' CHECK (apikeys_internal.hash_rule_is_known(hash_rule)),
    previous_hash_rule   text CHECK (apikeys_internal.hash_rule_is_known(previous_hash_rule)),
    created_by           text NOT NULL DEFAULT apikeys_internal.acting_name(),
    leaked_at            timestamptz,
    CONSTRAINT key_digest_key UNIQUE (digest),
    CONSTRAINT key_previous_check CHECK (num_nulls(previous_digest, previous_hash_rule, previous_valid_until) IN (0, 3)),
    CONSTRAINT key_suspended_check CHECK ((suspended_at IS NULL) = (suspended_reason IS NULL)),
    CONSTRAINT key_expires_at_check CHECK (pg_catalog.isfinite(expires_at))
);
-- An alias is unique among the unarchived keys of an account. The index has the archived ones too, each with
-- its id: it finds all keys of an account.
CREATE UNIQUE INDEX key_account_id_alias_key ON apikeys.key (account_id, alias, (key_id * (archived_at IS NOT NULL)::int));
CREATE UNIQUE INDEX key_previous_digest_key ON apikeys.key (previous_digest) WHERE previous_digest IS NOT NULL;
CREATE INDEX key_expires_at_idx ON apikeys.key (expires_at, key_id) WHERE expires_at IS NOT NULL;
-- What find_keys sorts and finds by.
CREATE INDEX key_created_at_idx ON apikeys.key (created_at, key_id);
CREATE INDEX key_alias_idx ON apikeys.key ((pg_catalog.lower(alias) COLLATE "C"), key_id);
CREATE INDEX key_hint_idx ON apikeys.key ((pg_catalog.reverse(hint) COLLATE "C"));
CREATE INDEX key_suspended_at_idx ON apikeys.key (created_at, key_id) WHERE suspended_at IS NOT NULL;
CREATE INDEX key_owner_limits_idx ON apikeys.key (tier) WHERE owner_limits IS NOT NULL;
COMMENT ON TABLE apikeys.key IS
'One row for each key: identity, settings, state. Only create_key and import_key make rows; a rotation keeps the '
'row.';
COMMENT ON COLUMN apikeys.key.key_id IS 'The id of the key, of at most 53 bits. It may be shown and logged.';
COMMENT ON COLUMN apikeys.key.account_id IS 'The account that owns it. It never changes.';
COMMENT ON COLUMN apikeys.key.created_at IS 'When it was made.';
COMMENT ON COLUMN apikeys.key.created_by IS 'The session''s user who made it.';
COMMENT ON COLUMN apikeys.key.alias IS 'Name of the key among the unarchived keys of its account.';
COMMENT ON COLUMN apikeys.key.category IS
'production, development, staging or any other text; verify does not look at it.';
COMMENT ON COLUMN apikeys.key.prefix IS
'What the key text begins with, before the last _ (empty for an imported key without one).';
COMMENT ON COLUMN apikeys.key.hint IS
'Prefix and last 4 characters of the key text, by which people recognise the key.';
COMMENT ON COLUMN apikeys.key.digest IS 'SHA-256 of the key text.';
COMMENT ON COLUMN apikeys.key.previous_digest IS
'Digest of the key text before the last rotation, which is valid until previous_valid_until.';
COMMENT ON COLUMN apikeys.key.previous_valid_until IS 'When the grace of the last rotation ends; NULL: it had none.';
COMMENT ON COLUMN apikeys.key.rotated_at IS 'When it got its present text; NULL: it still has its first.';
COMMENT ON COLUMN apikeys.key.rotations IS 'How many times it got a new text.';
COMMENT ON COLUMN apikeys.key.active IS 'Whether the key may be used: false refuses it with the verdict inactive.';
COMMENT ON COLUMN apikeys.key.suspended_reason IS 'Why the provider has suspended it; NULL: it is not suspended.';
COMMENT ON COLUMN apikeys.key.leaked_at IS
'When report_leak suspended it; a rotation without a grace ends that. NULL: it is not suspended, or the provider did it.';
COMMENT ON COLUMN apikeys.key.suspended_at IS 'Since when it is suspended; NULL: it is not.';
COMMENT ON COLUMN apikeys.key.archived_at IS
'When archive_key put it out of the lists of its account''s keys; NULL: it is not archived. An archived key is inactive or expired.';
COMMENT ON COLUMN apikeys.key.expires_at IS
'From this time on the verdict is expired; NULL: never. It cannot be set to a time that is past.';
COMMENT ON COLUMN apikeys.key.expiry_set_at IS 'When expires_at was set last; NULL: when the key was made. Its lifetime began then.';
COMMENT ON COLUMN apikeys.key.tier IS 'Its quota level; limits, if set, take its place.';
COMMENT ON COLUMN apikeys.key.limits IS 'Limits of its own; NULL: its tier''s.';
COMMENT ON COLUMN apikeys.key.owner_limits IS
'Limits that the owner sets below those of the provider: of each window the smaller cap decides, whatever is granted. NULL or empty: none.';
COMMENT ON COLUMN apikeys.key.allowed_domains IS 'Domains it may be used from, exact or *.example.com; empty: any.';
COMMENT ON COLUMN apikeys.key.allowed_ips IS 'Addresses it may be used from; empty: any.';
COMMENT ON COLUMN apikeys.key.scopes IS 'The scopes it has; a request that asks for any other is refused.';
COMMENT ON COLUMN apikeys.key.billing_type IS
'How it is billed: one of the plan''s billing_types, if the plan has any; NULL: not said.';
COMMENT ON COLUMN apikeys.key.metadata IS
'An object with anything the application wants to keep with the key. Erased by erase_account_data.';
COMMENT ON COLUMN apikeys.key.hash_rule IS
'How the digest is made from the key text: SHA-256 of the whole text or, for imported keys, of the part after its '
'last | or _.';
COMMENT ON COLUMN apikeys.key.previous_hash_rule IS
'How previous_digest was made; it differs from hash_rule if an imported key was rotated.';

CREATE TABLE apikeys.key_product (
    key_id  bigint REFERENCES apikeys.key ON DELETE CASCADE,
    product text REFERENCES apikeys.product ON UPDATE CASCADE,
    PRIMARY KEY (key_id, product)
);
CREATE INDEX key_product_product_idx ON apikeys.key_product (product);
COMMENT ON TABLE apikeys.key_product IS 'Which products a key is assigned to; a key with none is good for all.';
COMMENT ON COLUMN apikeys.key_product.key_id IS 'The key.';
COMMENT ON COLUMN apikeys.key_product.product IS 'A product that it is good for.';

CREATE TABLE apikeys.member (
    role       name,
    account_id bigint REFERENCES apikeys.account,
    PRIMARY KEY (role, account_id)
);
CREATE INDEX member_account_id_idx ON apikeys.member (account_id);
COMMENT ON TABLE apikeys.member IS
'Binds managers to accounts: a session sees and changes the accounts of the rows whose role is its user, or the role chosen by '
'SET ROLE, or one whose privileges that has (a group). Without such a row it sees none. Members of apikeys_staff and '
'apikeys_admin, and superusers, need none.';
COMMENT ON COLUMN apikeys.member.role IS 'The role, by name. A name that no role has any more binds nobody, until a role has it again: check_guards() lists it.';
COMMENT ON COLUMN apikeys.member.account_id IS 'An account that it is bound to.';

CREATE TABLE apikeys.upgrade_request (
    id                bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    key_id            bigint NOT NULL REFERENCES apikeys.key ON DELETE CASCADE,
    tier              text REFERENCES apikeys.tier ON UPDATE CASCADE,
    limits            apikeys.limits,
    motivation        text NOT NULL CHECK (apikeys_internal.has_text(motivation)),
    project           text,
    project_kind      text,
    purpose           text,
    expected_requests bigint CHECK (expected_requests >= 0),
    expected_users    bigint CHECK (expected_users >= 0),
    state             text NOT NULL DEFAULT 'pending'
                      CHECK (state IN ('pending', 'needs_information', 'approved', 'declined', 'withdrawn')),
    asked_at          timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    asked_by          text NOT NULL DEFAULT apikeys_internal.acting_name(),
    due_at            timestamptz NOT NULL,
    question          text,
    answer            text,
    decided_at        timestamptz,
    decided_by        text,
    note              text,
    CONSTRAINT upgrade_request_target_check CHECK ((tier IS NULL) <> (limits IS NULL)),
    CONSTRAINT upgrade_request_decided_check CHECK ((state IN ('pending', 'needs_information')) = (decided_at IS NULL))
);
CREATE UNIQUE INDEX upgrade_request_open_key ON apikeys.upgrade_request (key_id) WHERE state IN ('pending', 'needs_information');
CREATE INDEX upgrade_request_key_id_idx ON apikeys.upgrade_request (key_id);
COMMENT ON TABLE apikeys.upgrade_request IS
'Requests for a higher tier or higher limits of a key; a key has at most one open request.';
COMMENT ON COLUMN apikeys.upgrade_request.id IS 'Number of the request.';
COMMENT ON COLUMN apikeys.upgrade_request.key_id IS 'The key to be upgraded.';
COMMENT ON COLUMN apikeys.upgrade_request.tier IS 'The tier asked for; NULL: limits are asked for.';
COMMENT ON COLUMN apikeys.upgrade_request.limits IS 'The limits asked for; NULL: a tier is asked for.';
COMMENT ON COLUMN apikeys.upgrade_request.motivation IS 'The reason given by the requester.';
COMMENT ON COLUMN apikeys.upgrade_request.project IS 'What the key is for; NULL: not said.';
COMMENT ON COLUMN apikeys.upgrade_request.project_kind IS
'The kind of project, one of the words that the provider uses; NULL: not said.';
COMMENT ON COLUMN apikeys.upgrade_request.purpose IS 'What the requests are for; NULL: not said.';
COMMENT ON COLUMN apikeys.upgrade_request.expected_requests IS
'How many requests a month are expected; NULL: not said.';
COMMENT ON COLUMN apikeys.upgrade_request.expected_users IS 'How many users are expected; NULL: not said.';
COMMENT ON COLUMN apikeys.upgrade_request.state IS
'pending: the provider must decide; needs_information: the requester must answer; approved, declined or withdrawn: '
'closed.';
COMMENT ON COLUMN apikeys.upgrade_request.asked_at IS 'When it was asked for.';
COMMENT ON COLUMN apikeys.upgrade_request.asked_by IS 'The session''s user who asked.';
COMMENT ON COLUMN apikeys.upgrade_request.due_at IS
'Two working days (Monday to Friday, UTC) after it was made or its question was answered.';
COMMENT ON COLUMN apikeys.upgrade_request.question IS 'The provider''s last question; NULL: none.';
COMMENT ON COLUMN apikeys.upgrade_request.answer IS 'The answer to the question; NULL: none yet.';
COMMENT ON COLUMN apikeys.upgrade_request.decided_at IS 'When it was closed; NULL: it is open.';
COMMENT ON COLUMN apikeys.upgrade_request.decided_by IS
'The session''s user who closed it, or the rule that did (upgrade_rule and its id); NULL: it is open.';
COMMENT ON COLUMN apikeys.upgrade_request.note IS 'The provider''s note on the decision; NULL: none.';

CREATE TABLE apikeys.upgrade_rule (
    id           bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    min_tier     text REFERENCES apikeys.tier ON UPDATE CASCADE,
    project_kind text,
    purpose      text,
    product      text REFERENCES apikeys.product ON UPDATE CASCADE,
    reason       text NOT NULL CHECK (apikeys_internal.has_text(reason)),
    CONSTRAINT upgrade_rule_criterion_check CHECK (num_nonnulls(min_tier, project_kind, purpose, product) > 0)
);
COMMENT ON TABLE apikeys.upgrade_rule IS
'Rules that decline upgrade requests at once. A request is declined if it matches every column that is not NULL; at '
'least one is not.';
COMMENT ON COLUMN apikeys.upgrade_rule.id IS
'Number of the rule. The rule with the lowest number that matches declines the request.';
COMMENT ON COLUMN apikeys.upgrade_rule.min_tier IS
'Matches requests for this tier or a higher one, or for limits that have no lower cap than its; NULL: matches all.';
COMMENT ON COLUMN apikeys.upgrade_rule.project_kind IS
'Matches this project_kind, in upper or lower case; NULL: matches all.';
COMMENT ON COLUMN apikeys.upgrade_rule.purpose IS 'Matches this purpose, in upper or lower case; NULL: matches all.';
COMMENT ON COLUMN apikeys.upgrade_rule.product IS
'Matches keys that are good for this product: assigned to it, or to none; NULL: matches all.';
COMMENT ON COLUMN apikeys.upgrade_rule.reason IS 'The reason that the requester is given.';

CREATE TABLE apikeys.address_block (
    network    cidr PRIMARY KEY CHECK (network = apikeys_internal.plain_network(network)),
    until      timestamptz,
    reason     text NOT NULL CHECK (apikeys_internal.has_text(reason)),
    blocked_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    blocked_by text NOT NULL DEFAULT SESSION_USER
);
COMMENT ON TABLE apikeys.address_block IS
'Networks that are blocked by hand. Each request with an address is compared with all of them, so keep them to some '
'hundreds.';
COMMENT ON COLUMN apikeys.address_block.network IS 'The network. What lies in ::ffff:0:0/96 is written as IPv4.';
COMMENT ON COLUMN apikeys.address_block.until IS 'When the block ends; NULL: never.';
COMMENT ON COLUMN apikeys.address_block.reason IS 'Why, for people.';
COMMENT ON COLUMN apikeys.address_block.blocked_at IS 'When it was blocked last.';
COMMENT ON COLUMN apikeys.address_block.blocked_by IS 'The session''s user who blocked it.';

CREATE TABLE apikeys.audit_log (
    id         bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    role       text NOT NULL DEFAULT SESSION_USER,
    via        text NOT NULL DEFAULT 'role' CHECK (via IN ('role', 'key', 'portal')),
    actor      text,
    action     text NOT NULL,
    object     text NOT NULL,
    object_id  text NOT NULL,
    account_id bigint,
    old        jsonb,
    new        jsonb
);
CREATE INDEX audit_log_object_idx ON apikeys.audit_log (object, object_id, at);
CREATE INDEX audit_log_account_id_idx ON apikeys.audit_log (account_id, at);
COMMENT ON TABLE apikeys.audit_log IS
'What was changed, when, by which session user and actor, with the values before and after. Rows can only be added. '
'It never has a digest.';
COMMENT ON COLUMN apikeys.audit_log.id IS 'Number of the entry; not the order of commits.';
COMMENT ON COLUMN apikeys.audit_log.at IS 'When it was changed.';
COMMENT ON COLUMN apikeys.audit_log.role IS 'The session''s user.';
COMMENT ON COLUMN apikeys.audit_log.via IS
'By what right: role: the session''s user has it; key: the transaction acted for a key (begin_as); portal: it acted for an account '
'(begin_for).';
COMMENT ON COLUMN apikeys.audit_log.actor IS
'Who changed it: via a key key:<id>; via portal the actor given to begin_for, otherwise that of the setting apikeys.actor (neither is '
'checked); NULL: not said.';
COMMENT ON COLUMN apikeys.audit_log.action IS
'insert, update, delete or truncate; erase of an account; reset or grant of units.';
COMMENT ON COLUMN apikeys.audit_log.object IS 'The table that was changed.';
COMMENT ON COLUMN apikeys.audit_log.object_id IS
'The row: the name of an account, plan, tier or product; the id of a key (also for key_product), upgrade request or '
'rule; the network of a block; the role of a member; * for a truncated table.';
COMMENT ON COLUMN apikeys.audit_log.account_id IS 'The account concerned; NULL: none, or several.';
COMMENT ON COLUMN apikeys.audit_log.old IS
'The values before: of an update the changed columns, of a deletion the whole row; NULL: none.';
COMMENT ON COLUMN apikeys.audit_log.new IS
'The values after: of an update the changed columns, of a new row the whole row; NULL: none.';

CREATE TABLE apikeys.adjustment (
    id           bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    subject      "char" NOT NULL CHECK (subject IN ('k', 'a')),
    subject_id   bigint NOT NULL,
    limit_window text NOT NULL CHECK (limit_window <> ''),
    units        bigint NOT NULL,
    until        timestamptz,
    counts_from  bigint CHECK (counts_from >= 0),
    reason       text CHECK (reason IS NULL OR apikeys_internal.has_text(reason)),
    at           timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    created_by   text NOT NULL DEFAULT SESSION_USER,
    CONSTRAINT adjustment_kind_check CHECK ((until IS NULL) <> (counts_from IS NULL)),
    CONSTRAINT adjustment_units_check CHECK (CASE WHEN until IS NULL THEN units >= 0 ELSE units <> 0 END)
);
CREATE INDEX adjustment_subject_idx ON apikeys.adjustment (subject, subject_id, at);
COMMENT ON TABLE apikeys.adjustment IS
'Resets of usage and grants of units, of keys (k) and accounts (a). Rows can only be added; the request log and the '
'usage stay as they were. Use the functions: the meters may not know of a row inserted otherwise until they are '
'loaded again.';
COMMENT ON COLUMN apikeys.adjustment.id IS 'Number of the adjustment.';
COMMENT ON COLUMN apikeys.adjustment.subject IS 'k: of a key; a: of an account.';
COMMENT ON COLUMN apikeys.adjustment.subject_id IS 'The key_id or the account_id.';
COMMENT ON COLUMN apikeys.adjustment.limit_window IS
'The window whose limit is adjusted, e.g. day or total; other limits do not change.';
COMMENT ON COLUMN apikeys.adjustment.units IS
'Of a grant: units added to the cap, negative to take some back. Of a reset: the units that counted until then.';
COMMENT ON COLUMN apikeys.adjustment.until IS 'Of a grant: when it ends. NULL: the row is a reset.';
COMMENT ON COLUMN apikeys.adjustment.counts_from IS
'Of a reset: the units of all time that the subject had used then (usage_total). Only units used after them count '
'in the window. NULL: the row is a grant.';
COMMENT ON COLUMN apikeys.adjustment.at IS 'When it was made; it takes effect at the commit.';
COMMENT ON COLUMN apikeys.adjustment.reason IS 'Why, for people; NULL: not said, or erased.';
COMMENT ON COLUMN apikeys.adjustment.created_by IS 'The session''s user who made it.';

CREATE TABLE apikeys.notice (
    id         bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    kind       text NOT NULL CHECK (kind <> ''),
    key_id     bigint,
    account_id bigint,
    details    jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(details) = 'object'),
    sent_at    timestamptz
);
CREATE INDEX notice_sent_at_idx ON apikeys.notice (sent_at, id);
CREATE INDEX notice_account_id_idx ON apikeys.notice (account_id, id);
COMMENT ON TABLE apikeys.notice IS
'What the application may want to tell its users. Each row is announced with NOTIFY apikeys after its transaction '
'has committed, and deleted apikeys.notice_retention later.';
COMMENT ON COLUMN apikeys.notice.id IS
'Number of the notice. A receiver knows by it that it has seen the notice before: after a crash a notice may be '
'announced again.';
COMMENT ON COLUMN apikeys.notice.at IS 'When it happened.';
COMMENT ON COLUMN apikeys.notice.kind IS 'What happened, e.g. created or rotated; see the view notice_list.';
COMMENT ON COLUMN apikeys.notice.key_id IS
'The key; NULL: the notice is about an account as a whole, or about an address.';
COMMENT ON COLUMN apikeys.notice.account_id IS 'The account concerned; NULL: none.';
COMMENT ON COLUMN apikeys.notice.details IS
'More about it, depending on the kind, as of that time. Never a key text or a digest.';
COMMENT ON COLUMN apikeys.notice.sent_at IS 'When it was announced with NOTIFY apikeys; NULL: not yet.';

CREATE TABLE apikeys.notice_consumer (
    name          text PRIMARY KEY CHECK (apikeys_internal.has_text(name)),
    registered_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE apikeys.notice_consumer IS 'The programs that notices are delivered to: they call take_notices.';
COMMENT ON COLUMN apikeys.notice_consumer.name IS 'What it calls itself.';
COMMENT ON COLUMN apikeys.notice_consumer.registered_at IS 'When it has called first: it gets the notices that were announced after that.';

CREATE TABLE apikeys.notice_delivery (
    consumer     text NOT NULL,
    notice_id    bigint NOT NULL,
    attempts     int NOT NULL DEFAULT 0,
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (consumer, notice_id)
);
COMMENT ON TABLE apikeys.notice_delivery IS
'Notices that a consumer has not confirmed yet. The writer adds them as it announces a notice, and deletes them with it.';
COMMENT ON COLUMN apikeys.notice_delivery.consumer IS 'The name of the consumer.';
COMMENT ON COLUMN apikeys.notice_delivery.notice_id IS 'The notice.';
COMMENT ON COLUMN apikeys.notice_delivery.attempts IS 'How often the consumer has taken it.';
COMMENT ON COLUMN apikeys.notice_delivery.leased_until IS 'Until when nobody else gets it; in the past: it is due.';

CREATE TABLE apikeys.notice_mark (
    subject    "char" NOT NULL,
    subject_id bigint NOT NULL,
    topic      text NOT NULL,
    value      text NOT NULL,
    at         timestamptz NOT NULL,
    PRIMARY KEY (subject, subject_id, topic)
);
COMMENT ON TABLE apikeys.notice_mark IS
'The last notice of each topic about a key (k) or an account (a), for what must not be noticed again soon: limits '
'nearly or all used, and expiry.';
COMMENT ON COLUMN apikeys.notice_mark.subject IS 'k: of a key; a: of an account.';
COMMENT ON COLUMN apikeys.notice_mark.subject_id IS 'The key_id or the account_id.';
COMMENT ON COLUMN apikeys.notice_mark.topic IS 'The kind of the notice and, if it is about a limit, the window.';
COMMENT ON COLUMN apikeys.notice_mark.value IS
'The cap of the limit, or the expiry. A different one is noticed at once.';
COMMENT ON COLUMN apikeys.notice_mark.at IS 'When it happened, in engine time.';

CREATE TABLE apikeys.quarantine (
    id     bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    reason text NOT NULL,
    event  jsonb NOT NULL
);
CREATE INDEX quarantine_request_id_idx ON apikeys.quarantine ((event OPERATOR(pg_catalog.->>) 'request_id'));
COMMENT ON TABLE apikeys.quarantine IS
'Events that could not be written to the request log, with the reason. They count in the usage all the same.';
COMMENT ON COLUMN apikeys.quarantine.id IS 'Number of the event.';
COMMENT ON COLUMN apikeys.quarantine.at IS 'When it was put aside.';
COMMENT ON COLUMN apikeys.quarantine.reason IS 'The error that kept the event out of the request log.';
COMMENT ON COLUMN apikeys.quarantine.event IS
'The columns of request_log, by name. For a request: its row. For a completion whose request is in the log (code is '
'null, completed is true): at, key_id and request_id of the request, its account_id if that was found in the log, '
'status, duration_ms and credits; the others are null. jsonb_populate_record(NULL::apikeys.request_log, event) '
'makes a row of it.';

-- Only the writer writes it (src/tables/rows.c). The parent has no key, index or default partition, so that a restore can attach
-- the partitions as they are. There are no foreign keys, so that no open transaction of a user can stall the writer.
CREATE TABLE apikeys.request_log (
    at          timestamptz NOT NULL,
    key_id      bigint NOT NULL,
    account_id  bigint NOT NULL,
    request_id  uuid NOT NULL,
    code        text NOT NULL,
    status      smallint NOT NULL,
    endpoint    text,
    duration_ms real,
    ip          inet,
    cost        int NOT NULL,
    credits     bigint,
    category    text NOT NULL,
    product     text,
    completed   boolean NOT NULL,
    previous    boolean NOT NULL DEFAULT false
) PARTITION BY RANGE (at);
-- Each partition has it too. A publication with publish_via_partition_root sends changes as the root's, and a completion is an UPDATE.
ALTER TABLE apikeys.request_log REPLICA IDENTITY FULL;
COMMENT ON TABLE apikeys.request_log IS
'One row for each request that named a key, admitted or denied. Partitioned by day (UTC).';
COMMENT ON COLUMN apikeys.request_log.at IS 'When the request was made, in engine time.';
COMMENT ON COLUMN apikeys.request_log.key_id IS 'The key that the request named.';
COMMENT ON COLUMN apikeys.request_log.account_id IS 'The account of the key.';
COMMENT ON COLUMN apikeys.request_log.request_id IS 'The id in the verdict, which complete() takes.';
COMMENT ON COLUMN apikeys.request_log.endpoint IS
'The endpoint as given to verify(): what comes before the first ? or # (all of it if apikeys.log_query_string is on), '
'with hints in the place of key texts, its first 2048 bytes; NULL: not given.';
COMMENT ON COLUMN apikeys.request_log.ip IS
'Client address as given to verify(), in the form that apikeys.log_address keeps; NULL: none.';
COMMENT ON COLUMN apikeys.request_log.code IS 'The verdict''s code: valid, or why the request was denied.';
COMMENT ON COLUMN apikeys.request_log.status IS
'HTTP status: first the verdict''s, then the response''s as given to complete().';
COMMENT ON COLUMN apikeys.request_log.duration_ms IS
'Time to the first byte of the response, in milliseconds, as given to complete().';
COMMENT ON COLUMN apikeys.request_log.cost IS 'Units that the request asked for.';
COMMENT ON COLUMN apikeys.request_log.credits IS
'Credits billed for the request, as given to complete(). Limits do not count them.';
COMMENT ON COLUMN apikeys.request_log.completed IS
'Whether complete() was called for the request; only the first call is recorded.';
COMMENT ON COLUMN apikeys.request_log.previous IS
'Whether the request had the text that the key had before a rotation, within the grace.';
COMMENT ON COLUMN apikeys.request_log.category IS 'The key''s category at the time of the request.';
COMMENT ON COLUMN apikeys.request_log.product IS
'The product that the request named, whether it is in table product or not (with hints in the place of key texts, '
'its first 256 bytes); NULL: none.';

-- Half of each page stays free, because a batch may change all its rows, and the old versions stay there until the next batch.
CREATE TABLE apikeys.usage_bucket (
    subject    "char" NOT NULL,
    subject_id bigint NOT NULL,
    bucket     timestamptz NOT NULL,
    admitted   bigint NOT NULL,
    denied     bigint NOT NULL,
    units      bigint NOT NULL,
    errors     bigint NOT NULL,
    credits    bigint NOT NULL,
    unlogged   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (subject, subject_id, bucket)
) WITH (fillfactor = 45);
COMMENT ON TABLE apikeys.usage_bucket IS
'Usage of each key (k) and account (a) in steps of 5 minutes, merged to hours after 2 days and to days after 90.';
COMMENT ON COLUMN apikeys.usage_bucket.subject IS 'k: of a key; a: of an account, over all its keys.';
COMMENT ON COLUMN apikeys.usage_bucket.subject_id IS 'The key_id or the account_id.';
COMMENT ON COLUMN apikeys.usage_bucket.bucket IS 'Start of the step.';
COMMENT ON COLUMN apikeys.usage_bucket.admitted IS 'Requests that were admitted.';
COMMENT ON COLUMN apikeys.usage_bucket.denied IS 'Requests that were denied.';
COMMENT ON COLUMN apikeys.usage_bucket.units IS 'Units that admitted requests used.';
COMMENT ON COLUMN apikeys.usage_bucket.errors IS 'Admitted requests completed with a status of 400 or more.';
COMMENT ON COLUMN apikeys.usage_bucket.credits IS 'Credits billed for requests, as given to complete().';
COMMENT ON COLUMN apikeys.usage_bucket.unlogged IS
'Requests, admitted or denied, that were not logged because apikeys.log_requests was off.';

CREATE TABLE apikeys.usage_total (
    subject       "char" NOT NULL,
    subject_id    bigint NOT NULL,
    admitted      bigint NOT NULL,
    denied        bigint NOT NULL,
    units         bigint NOT NULL,
    errors        bigint NOT NULL,
    credits       bigint NOT NULL,
    first_used_at timestamptz NOT NULL,
    last_used_at  timestamptz NOT NULL,
    last_unit_at  timestamptz,
    previous_last_used_at timestamptz,
    newest_text   int,
    PRIMARY KEY (subject, subject_id)
) WITH (fillfactor = 45);
COMMENT ON TABLE apikeys.usage_total IS
'All usage so far of each key (k) and account (a). A key with a row here has been used and can never be deleted. '
'Sums end at 9223372036854775807.';
COMMENT ON COLUMN apikeys.usage_total.subject IS 'k: of a key; a: of an account, over all its keys.';
COMMENT ON COLUMN apikeys.usage_total.subject_id IS 'The key_id or the account_id.';
COMMENT ON COLUMN apikeys.usage_total.admitted IS 'Requests that were admitted.';
COMMENT ON COLUMN apikeys.usage_total.denied IS 'Requests that were denied.';
COMMENT ON COLUMN apikeys.usage_total.units IS 'Units that admitted requests used.';
COMMENT ON COLUMN apikeys.usage_total.errors IS 'Admitted requests completed with a status of 400 or more.';
COMMENT ON COLUMN apikeys.usage_total.credits IS 'Credits billed for requests, as given to complete().';
COMMENT ON COLUMN apikeys.usage_total.first_used_at IS 'Time of the first request, admitted or denied.';
COMMENT ON COLUMN apikeys.usage_total.last_used_at IS 'Time of the last request, admitted or denied.';
COMMENT ON COLUMN apikeys.usage_total.last_unit_at IS 'Time of the last request that used units: it was admitted and its cost was not 0. NULL: there was none.';
COMMENT ON COLUMN apikeys.usage_total.previous_last_used_at IS
'Of a key: time of the last request with the text that the key had before a rotation, within the grace. NULL: there was none.';
COMMENT ON COLUMN apikeys.usage_total.newest_text IS
'Of a key: which is the newest of its texts that a request had: after so many rotations. NULL: its first, or none.';

-- A statement for each call, because each updates the extension's own row.
DO $$
DECLARE
    relation pg_catalog.oid;
BEGIN
    FOR relation IN
        SELECT c.oid FROM pg_catalog.pg_class AS c
        WHERE c.relnamespace = 'apikeys'::pg_catalog.regnamespace AND c.relkind IN ('r', 'p', 'S')
        ORDER BY c.oid
    LOOP
        PERFORM pg_catalog.pg_extension_config_dump(relation, '');
    END LOOP;
END
$$;
