-- The tables. All of them are dumped with the database; none carries a row that the extension ships, and none has a
-- trigger that acts on INSERT, but to drop caches: a restore would fire it. What a changed row could violate stands in a constraint here or
-- in an UPDATE or DELETE trigger of the part that owns the rule.

CREATE FUNCTION apikeys_internal.has_text(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN value IS NOT NULL AND value OPERATOR(pg_catalog.~) '[^[:space:]]' COLLATE "C";
COMMENT ON FUNCTION apikeys_internal.has_text(text) IS 'Whether there is more in a text than white space (of ASCII); false for NULL.';

CREATE FUNCTION apikeys_internal.prefix_is_valid(prefix text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN prefix OPERATOR(pg_catalog.~) '^[a-z][a-z0-9]*(_[a-z0-9]+)*$' AND pg_catalog.length(prefix) OPERATOR(pg_catalog.<=) 24;
COMMENT ON FUNCTION apikeys_internal.prefix_is_valid(text) IS
'Whether a text can be the prefix of keys: lower-case letters and digits in groups joined by _, a letter first, at most 24 characters.';

CREATE FUNCTION apikeys_internal.lifetimes_are_valid(lifetimes interval[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.cardinality(lifetimes) OPERATOR(pg_catalog.>) 0
    AND NOT EXISTS (SELECT FROM pg_catalog.unnest(lifetimes) AS l(lifetime)
                    WHERE l.lifetime IS NULL OR l.lifetime OPERATOR(pg_catalog.<=) '0'::interval OR l.lifetime OPERATOR(pg_catalog.>) '1000 years'::interval);
COMMENT ON FUNCTION apikeys_internal.lifetimes_are_valid(interval[]) IS 'Whether a list has lifetimes, all of them known and positive.';

-- Lifetimes are compared in seconds, as they are counted: as intervals a year would be 360 days, and last 365.25.
CREATE FUNCTION apikeys_internal.longest_lifetime(lifetimes interval[]) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT l.lifetime FROM pg_catalog.unnest(lifetimes) AS l(lifetime)
        ORDER BY EXTRACT(epoch FROM l.lifetime) DESC NULLS LAST LIMIT 1);
COMMENT ON FUNCTION apikeys_internal.longest_lifetime(interval[]) IS 'The longest lifetime of a list, in seconds; NULL where there is none.';

CREATE FUNCTION apikeys_internal.lifetime_is_offered(lifetime interval, lifetimes interval[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN lifetime IS NULL OR lifetimes IS NULL
    OR EXISTS (SELECT FROM pg_catalog.unnest(lifetimes) AS l(lifetime)
               WHERE EXTRACT(epoch FROM l.lifetime) OPERATOR(pg_catalog.=) EXTRACT(epoch FROM lifetime_is_offered.lifetime));
COMMENT ON FUNCTION apikeys_internal.lifetime_is_offered(interval, interval[]) IS
'Whether a list has a lifetime of as many seconds; without one of them: true.';

CREATE FUNCTION apikeys_internal.domains_are_valid(domains text[]) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_domains_check';
COMMENT ON FUNCTION apikeys_internal.domains_are_valid(text[]) IS
'Whether every element of a list is a domain such as example.com or, for all below it, *.example.com.';

-- ::ffff:a.b.c.d is an address of IPv4.
CREATE FUNCTION apikeys_internal.plain_network(address inet) RETURNS cidr
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE WHEN address OPERATOR(pg_catalog.<<=) inet '::ffff:0.0.0.0/96'
    THEN pg_catalog.network(pg_catalog.set_masklen(
        inet '0.0.0.0' OPERATOR(pg_catalog.+) (address OPERATOR(pg_catalog.-) inet '::ffff:0.0.0.0'), pg_catalog.masklen(address) OPERATOR(pg_catalog.-) 96))
    ELSE pg_catalog.network(address) END;
COMMENT ON FUNCTION apikeys_internal.plain_network(inet) IS 'The network of an address with a mask: without bits beyond it, and one of IPv4 if it lies in ::ffff:0:0/96. Internal.';

CREATE TABLE apikeys.tier (
    name        text PRIMARY KEY CHECK (name <> ''),
    rank        int NOT NULL UNIQUE,
    limits      apikeys.limits NOT NULL,
    description text
);
COMMENT ON TABLE apikeys.tier IS 'Named quota levels for keys, e.g. bronze, silver, gold.';
COMMENT ON COLUMN apikeys.tier.name IS 'Its name, for people and code: what keys and plans refer to.';
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
    billing_types         text[] CHECK (billing_types <> '{}' AND pg_catalog.array_position(billing_types, NULL) IS NULL),
    CONSTRAINT plan_default_lifetime_offered_check CHECK (apikeys_internal.lifetime_is_offered(default_lifetime, lifetimes)),
    CONSTRAINT plan_max_lifetime_exceeded_check CHECK (
        EXTRACT(epoch FROM apikeys_internal.longest_lifetime(pg_catalog.array_append(lifetimes, default_lifetime))) <= EXTRACT(epoch FROM max_lifetime))
);
COMMENT ON TABLE apikeys.plan IS 'The rules for accounts: how many keys, which lifetimes, limits of the account as a whole.';
COMMENT ON COLUMN apikeys.plan.name IS 'Its name, for people and code: what accounts refer to.';
COMMENT ON COLUMN apikeys.plan.key_prefix IS 'Prefix of new keys: lower-case letters and digits in groups joined by _, at most 24 characters.';
COMMENT ON COLUMN apikeys.plan.max_keys IS 'How many keys an account may have that are neither inactive nor expired; NULL: any number. A key that takes the place of a deactivated one begins with unused limits: what must hold over all keys stands in limits.';
COMMENT ON COLUMN apikeys.plan.max_lifetime IS 'Longest lifetime of a key, from its creation or from the edit of its expiry; NULL: the longest of lifetimes, if there are any. Lifetimes are seconds: a day is 86,400 s.';
COMMENT ON COLUMN apikeys.plan.lifetimes IS 'The lifetimes offered to new and rotated keys, e.g. {7 days,30 days}, none longer than max_lifetime; NULL: any up to that. An edit of expires_at may set any date up to the longest: it only ever gives less than what is offered.';
COMMENT ON COLUMN apikeys.plan.default_lifetime IS 'Lifetime of a key that is created without one, of those offered; NULL: it does not expire, where allow_unexpiring.';
COMMENT ON COLUMN apikeys.plan.allow_unexpiring IS 'Whether a key may live without an expiry; none may where there is a max_lifetime.';
COMMENT ON COLUMN apikeys.plan.limits IS 'Limits of each account on this plan that has none of its own, over all its keys together.';
COMMENT ON COLUMN apikeys.plan.default_tier IS 'Tier of a key that is created with neither tier nor limits; NULL: none, the key has no limits.';
COMMENT ON COLUMN apikeys.plan.one_key_per_product IS 'Whether a product may be assigned to one key of an account only. Each key must have a product then: one without is good for all.';
COMMENT ON COLUMN apikeys.plan.custom_limits_allowed IS 'Whether a key may have limits of its own instead of a tier''s.';
COMMENT ON COLUMN apikeys.plan.billing_types IS 'The billing types that a key may have; NULL: any.';

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
COMMENT ON COLUMN apikeys.account.account_id IS 'Its number, by which log and usage refer to it.';
COMMENT ON COLUMN apikeys.account.name IS 'The application''s own id of the owner. It never changes: the keys'' locators are made of it.';
COMMENT ON COLUMN apikeys.account.display_name IS 'Its name for people; NULL: none. Erased by erase_account_data.';
COMMENT ON COLUMN apikeys.account.contact IS 'Whom to write to, in whatever form; NULL: nobody. Erased by erase_account_data.';
COMMENT ON COLUMN apikeys.account.plan IS 'The rules for its keys.';
COMMENT ON COLUMN apikeys.account.limits IS 'Limits over all keys of the account together; NULL: the plan''s.';
COMMENT ON COLUMN apikeys.account.active IS 'Whether its keys may be used: false refuses them all with the verdict inactive.';
COMMENT ON COLUMN apikeys.account.metadata IS 'What the application wants to keep with it, an object. Erased by erase_account_data.';
COMMENT ON COLUMN apikeys.account.created_at IS 'When it was made.';

CREATE TABLE apikeys.product (
    name        text PRIMARY KEY CHECK (name <> '' AND pg_catalog.octet_length(name) <= 256),
    description text
);
COMMENT ON TABLE apikeys.product IS 'The APIs that a key can be assigned to.';
COMMENT ON COLUMN apikeys.product.name IS 'Its name, at most 256 bytes: what requests name.';
COMMENT ON COLUMN apikeys.product.description IS 'For people; NULL: none.';

-- key_id = locator * 2^37 + n: n from this sequence, 53 bits in all, so that JavaScript reads it without loss.
CREATE SEQUENCE apikeys.key_number_seq AS bigint MAXVALUE 137438953471 CACHE 1;
COMMENT ON SEQUENCE apikeys.key_number_seq IS 'The lower 37 bits of the key ids.';

CREATE TABLE apikeys.key (
    key_id               bigint PRIMARY KEY CHECK (key_id BETWEEN 1 AND 9007199254740991),
    account_id           bigint NOT NULL REFERENCES apikeys.account,
    created_at           timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    expires_at           timestamptz,
    previous_valid_until timestamptz,
    rotated_at           timestamptz,
    suspended_at         timestamptz,
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
    allowed_domains      text[] NOT NULL DEFAULT '{}' CHECK (apikeys_internal.domains_are_valid(allowed_domains)),
    allowed_ips          cidr[] NOT NULL DEFAULT '{}' CHECK (pg_catalog.array_position(allowed_ips, NULL) IS NULL),
    scopes               text[] NOT NULL DEFAULT '{}' CHECK (pg_catalog.array_position(scopes, NULL) IS NULL),
    billing_type         text CHECK (billing_type <> ''),
    metadata             jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(metadata) = 'object'),
    hash_rule            text NOT NULL DEFAULT 'sha256' CHECK (hash_rule IN ('sha256', 'sha256_after_bar', 'sha256_after_underscore')),
    previous_hash_rule   text CHECK (previous_hash_rule IN ('sha256', 'sha256_after_bar', 'sha256_after_underscore')),
    created_by           text NOT NULL DEFAULT SESSION_USER,
    CONSTRAINT key_account_id_alias_key UNIQUE (account_id, alias),
    CONSTRAINT key_digest_key UNIQUE (digest),
    CONSTRAINT key_previous_check CHECK (num_nulls(previous_digest, previous_hash_rule, previous_valid_until) IN (0, 3)),
    CONSTRAINT key_suspended_check CHECK ((suspended_at IS NULL) = (suspended_reason IS NULL)),
    CONSTRAINT key_expires_at_check CHECK (pg_catalog.isfinite(expires_at))
);
CREATE UNIQUE INDEX key_previous_digest_key ON apikeys.key (previous_digest) WHERE previous_digest IS NOT NULL;
CREATE INDEX key_expires_at_idx ON apikeys.key (expires_at, key_id) WHERE expires_at IS NOT NULL;
COMMENT ON TABLE apikeys.key IS 'One row a key: identity, settings, state. Made by create_key and import_key only; survives rotation.';
COMMENT ON COLUMN apikeys.key.key_id IS 'The key''s id: fits 53 bits, safe to show and log.';
COMMENT ON COLUMN apikeys.key.account_id IS 'Whose it is. It never changes.';
COMMENT ON COLUMN apikeys.key.created_at IS 'When it was made.';
COMMENT ON COLUMN apikeys.key.created_by IS 'The session''s user who made it.';
COMMENT ON COLUMN apikeys.key.alias IS 'Name of the key within its account.';
COMMENT ON COLUMN apikeys.key.category IS 'production, development, staging or any other text; no effect on verification.';
COMMENT ON COLUMN apikeys.key.prefix IS 'What the key text begins with, before the last _ (empty for an imported key without one).';
COMMENT ON COLUMN apikeys.key.hint IS 'Prefix and last 4 characters of the key text, to recognise it by.';
COMMENT ON COLUMN apikeys.key.digest IS 'SHA-256 of the key text.';
COMMENT ON COLUMN apikeys.key.previous_digest IS 'Digest of the key text before the last rotation, good until previous_valid_until.';
COMMENT ON COLUMN apikeys.key.previous_valid_until IS 'When the grace of the last rotation ends; NULL: it had none.';
COMMENT ON COLUMN apikeys.key.rotated_at IS 'When it got its present text; NULL: it has its first.';
COMMENT ON COLUMN apikeys.key.rotations IS 'How often it got another text.';
COMMENT ON COLUMN apikeys.key.active IS 'Whether the key may be used: false refuses it with the verdict inactive.';
COMMENT ON COLUMN apikeys.key.suspended_reason IS 'Why the provider has suspended it; NULL: it is not suspended.';
COMMENT ON COLUMN apikeys.key.suspended_at IS 'Since when it is suspended; NULL: it is not.';
COMMENT ON COLUMN apikeys.key.expires_at IS 'From this moment on the verdict is expired; NULL: never.';
COMMENT ON COLUMN apikeys.key.tier IS 'Its quota level; without effect while limits is set.';
COMMENT ON COLUMN apikeys.key.limits IS 'Limits of its own; NULL: its tier''s.';
COMMENT ON COLUMN apikeys.key.allowed_domains IS 'Domains it may be used from, exact or *.example.com; empty: any.';
COMMENT ON COLUMN apikeys.key.allowed_ips IS 'Addresses it may be used from; empty: any.';
COMMENT ON COLUMN apikeys.key.scopes IS 'What it may do; a request that asks for a scope outside is refused.';
COMMENT ON COLUMN apikeys.key.billing_type IS 'How it is billed, one of the plans billing_types if that has any; NULL: not said.';
COMMENT ON COLUMN apikeys.key.metadata IS 'What the application wants to keep with it, an object. Erased by erase_account_data.';
COMMENT ON COLUMN apikeys.key.hash_rule IS 'How the digest is made of the key text: SHA-256 of the whole text, or (imported keys) of what follows its last | or _.';
COMMENT ON COLUMN apikeys.key.previous_hash_rule IS 'How previous_digest was made: a rotated key that was imported had another rule.';

CREATE TABLE apikeys.key_product (
    key_id  bigint REFERENCES apikeys.key ON DELETE CASCADE,
    product text REFERENCES apikeys.product ON UPDATE CASCADE,
    PRIMARY KEY (key_id, product)
);
CREATE INDEX key_product_product_idx ON apikeys.key_product (product);
COMMENT ON TABLE apikeys.key_product IS 'Which products a key is assigned to; a key with none is good for all.';
COMMENT ON COLUMN apikeys.key_product.key_id IS 'The key.';
COMMENT ON COLUMN apikeys.key_product.product IS 'A product that it is good for.';

-- No ON DELETE CASCADE: who loses the last row is bound no more, and would see all accounts.
CREATE TABLE apikeys.member (
    role       name,
    account_id bigint REFERENCES apikeys.account,
    PRIMARY KEY (role, account_id)
);
CREATE INDEX member_account_id_idx ON apikeys.member (account_id);
COMMENT ON TABLE apikeys.member IS 'Binds managers to accounts: a role (the session''s user) with rows here sees and changes these accounts only; one with none, all.';
COMMENT ON COLUMN apikeys.member.role IS 'The role that a manager logs in as, by name.';
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
    asked_by          text NOT NULL DEFAULT SESSION_USER,
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
COMMENT ON TABLE apikeys.upgrade_request IS 'Requests for a higher tier or higher limits of a key; at most one open request a key.';
COMMENT ON COLUMN apikeys.upgrade_request.id IS 'Number of the request.';
COMMENT ON COLUMN apikeys.upgrade_request.key_id IS 'The key that is to have more.';
COMMENT ON COLUMN apikeys.upgrade_request.tier IS 'The tier asked for; NULL: limits are.';
COMMENT ON COLUMN apikeys.upgrade_request.limits IS 'The limits asked for; NULL: a tier is.';
COMMENT ON COLUMN apikeys.upgrade_request.motivation IS 'Why, in the words of who asks.';
COMMENT ON COLUMN apikeys.upgrade_request.project IS 'What the key is for; NULL: not said.';
COMMENT ON COLUMN apikeys.upgrade_request.project_kind IS 'What kind of project that is, in words of the providers; NULL: not said.';
COMMENT ON COLUMN apikeys.upgrade_request.purpose IS 'What the requests are for; NULL: not said.';
COMMENT ON COLUMN apikeys.upgrade_request.expected_requests IS 'How many requests a month are expected; NULL: not said.';
COMMENT ON COLUMN apikeys.upgrade_request.expected_users IS 'How many users are expected; NULL: not said.';
COMMENT ON COLUMN apikeys.upgrade_request.state IS 'pending: with the provider; needs_information: with who asked; approved, declined or withdrawn: closed.';
COMMENT ON COLUMN apikeys.upgrade_request.asked_at IS 'When it was asked for.';
COMMENT ON COLUMN apikeys.upgrade_request.asked_by IS 'The session''s user who asked.';
COMMENT ON COLUMN apikeys.upgrade_request.due_at IS 'Two working days (Monday to Friday, UTC) after it was asked for or answered.';
COMMENT ON COLUMN apikeys.upgrade_request.question IS 'What the provider asked back last; NULL: nothing.';
COMMENT ON COLUMN apikeys.upgrade_request.answer IS 'The answer to that; NULL: none yet.';
COMMENT ON COLUMN apikeys.upgrade_request.decided_at IS 'When it was closed; NULL: it is open.';
COMMENT ON COLUMN apikeys.upgrade_request.decided_by IS 'The session''s user who closed it, or the rule (upgrade_rule and its id); NULL: it is open.';
COMMENT ON COLUMN apikeys.upgrade_request.note IS 'What was said to the decision; NULL: nothing.';

CREATE TABLE apikeys.upgrade_rule (
    id           bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    min_tier     text REFERENCES apikeys.tier ON UPDATE CASCADE,
    project_kind text,
    purpose      text,
    reason       text NOT NULL CHECK (apikeys_internal.has_text(reason)),
    CONSTRAINT upgrade_rule_criterion_check CHECK (num_nonnulls(min_tier, project_kind, purpose) > 0)
);
COMMENT ON TABLE apikeys.upgrade_rule IS 'Upgrade requests that match every column that is not NULL, one at least, are declined at once with the reason.';
COMMENT ON COLUMN apikeys.upgrade_rule.id IS 'Number of the rule: the first that matches decides.';
COMMENT ON COLUMN apikeys.upgrade_rule.min_tier IS 'This tier or a higher one is asked for, or limits that reach its; NULL: whatever is.';
COMMENT ON COLUMN apikeys.upgrade_rule.project_kind IS 'The project_kind of the request, in upper or lower case; NULL: whatever it is.';
COMMENT ON COLUMN apikeys.upgrade_rule.purpose IS 'The purpose of the request, in upper or lower case; NULL: whatever it is.';
COMMENT ON COLUMN apikeys.upgrade_rule.reason IS 'What is said to who asked.';

CREATE TABLE apikeys.address_block (
    network    cidr PRIMARY KEY CHECK (network = apikeys_internal.plain_network(network)),
    until      timestamptz,
    reason     text NOT NULL CHECK (apikeys_internal.has_text(reason)),
    blocked_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    blocked_by text NOT NULL DEFAULT SESSION_USER
);
COMMENT ON TABLE apikeys.address_block IS 'Networks that are blocked by hand. Each request with an address is compared with all of them: keep it to hundreds.';
COMMENT ON COLUMN apikeys.address_block.network IS 'Without ::ffff:0:0/96: what lies there is written as IPv4.';
COMMENT ON COLUMN apikeys.address_block.until IS 'When the block ends; NULL: never.';
COMMENT ON COLUMN apikeys.address_block.reason IS 'Why, for people.';
COMMENT ON COLUMN apikeys.address_block.blocked_at IS 'When it was blocked last.';
COMMENT ON COLUMN apikeys.address_block.blocked_by IS 'The session''s user who did.';

CREATE TABLE apikeys.audit_log (
    id         bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    role       text NOT NULL DEFAULT SESSION_USER,
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
COMMENT ON TABLE apikeys.audit_log IS 'What was changed, when, by which session user and actor, from what to what. Append-only; never a digest.';
COMMENT ON COLUMN apikeys.audit_log.id IS 'Number of the entry; not the order of commits.';
COMMENT ON COLUMN apikeys.audit_log.at IS 'When it was changed.';
COMMENT ON COLUMN apikeys.audit_log.role IS 'The session''s user.';
COMMENT ON COLUMN apikeys.audit_log.actor IS 'On whose behalf, as the setting apikeys.actor said, unproven; NULL: it did not.';
COMMENT ON COLUMN apikeys.audit_log.action IS 'insert, update, delete or truncate; erase of an account; reset or grant of units.';
COMMENT ON COLUMN apikeys.audit_log.object IS 'The table of what was changed.';
COMMENT ON COLUMN apikeys.audit_log.object_id IS 'Which row: the name of an account, plan, tier or product, the id of a key (of key_product, too), upgrade request or rule, the network of a block, the role of a member; * for a truncated table.';
COMMENT ON COLUMN apikeys.audit_log.account_id IS 'The account that it concerns; NULL: none, or several.';
COMMENT ON COLUMN apikeys.audit_log.old IS 'What was there: of an update the changed columns, of a deletion the whole row; NULL: nothing.';
COMMENT ON COLUMN apikeys.audit_log.new IS 'What is there since; NULL: nothing.';

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
COMMENT ON TABLE apikeys.adjustment IS 'Resets of usage and grants of units, of keys (k) and accounts (a). Append-only: requests, their log and usage stay as they were. A row that is not made by the functions for it may be unknown to the meters until they are loaded again.';
COMMENT ON COLUMN apikeys.adjustment.id IS 'Number of the adjustment.';
COMMENT ON COLUMN apikeys.adjustment.subject IS 'k: of a key; a: of an account.';
COMMENT ON COLUMN apikeys.adjustment.subject_id IS 'The key_id or the account_id.';
COMMENT ON COLUMN apikeys.adjustment.limit_window IS 'The window that it is for, e.g. day or total; other limits go on as they are.';
COMMENT ON COLUMN apikeys.adjustment.units IS 'Of a grant: units above the cap, negative to take some back. Of a reset: the units that counted until then.';
COMMENT ON COLUMN apikeys.adjustment.until IS 'Of a grant: its end. NULL: it is a reset.';
COMMENT ON COLUMN apikeys.adjustment.counts_from IS 'Of a reset: the subject''s units of all time then (usage_total). Only those that it has used beyond them count in the window.';
COMMENT ON COLUMN apikeys.adjustment.at IS 'When it was made; it acts from the commit on.';
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
COMMENT ON TABLE apikeys.notice IS 'Outbox of what the application may want to tell its users. Each row is announced with NOTIFY apikeys, once its transaction has committed, and deleted apikeys.notice_retention later.';
COMMENT ON COLUMN apikeys.notice.id IS 'Tells a receiver whether it knows the notice already: after a crash it may be announced again.';
COMMENT ON COLUMN apikeys.notice.at IS 'When it happened.';
COMMENT ON COLUMN apikeys.notice.kind IS 'What happened: created, rotated and so on: see the view notice_list.';
COMMENT ON COLUMN apikeys.notice.key_id IS 'The key; NULL: it is about an account as a whole, or about an address.';
COMMENT ON COLUMN apikeys.notice.account_id IS 'Whose it is; NULL: nobody''s.';
COMMENT ON COLUMN apikeys.notice.details IS 'What the kind calls for, as things stood then. Never a key text or a digest.';
COMMENT ON COLUMN apikeys.notice.sent_at IS 'When it was announced with NOTIFY apikeys; NULL: not yet.';

CREATE TABLE apikeys.notice_mark (
    subject    "char" NOT NULL,
    subject_id bigint NOT NULL,
    topic      text NOT NULL,
    value      text NOT NULL,
    at         timestamptz NOT NULL,
    PRIMARY KEY (subject, subject_id, topic)
);
COMMENT ON TABLE apikeys.notice_mark IS 'What was noticed last of a key (k) or an account (a) where it is not to be noticed again so soon: limits nearly or all used, expiry.';
COMMENT ON COLUMN apikeys.notice_mark.subject IS 'k: of a key; a: of an account.';
COMMENT ON COLUMN apikeys.notice_mark.subject_id IS 'The key_id or the account_id.';
COMMENT ON COLUMN apikeys.notice_mark.topic IS 'The kind, and the window of a limit.';
COMMENT ON COLUMN apikeys.notice_mark.value IS 'The cap of the limit, or the expiry: another one is noticed at once.';
COMMENT ON COLUMN apikeys.notice_mark.at IS 'When it happened, in engine time.';

CREATE TABLE apikeys.quarantine (
    id     bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    reason text NOT NULL,
    event  jsonb NOT NULL
);
CREATE INDEX quarantine_request_id_idx ON apikeys.quarantine ((event OPERATOR(pg_catalog.->>) 'request_id'));
COMMENT ON TABLE apikeys.quarantine IS 'Events that could not be written to the request log, with the reason. They count in the usage all the same.';
COMMENT ON COLUMN apikeys.quarantine.id IS 'Number of the event.';
COMMENT ON COLUMN apikeys.quarantine.at IS 'When it was put aside.';
COMMENT ON COLUMN apikeys.quarantine.reason IS 'The error that kept the event out of the request log.';
COMMENT ON COLUMN apikeys.quarantine.event IS 'The columns of request_log, by name. Of a request: its row. Of a completion by itself (code is null, completed is true): at, key_id and request_id of its request, account_id if that was found in the log, status, duration_ms and credits; the others are null. jsonb_populate_record(NULL::apikeys.request_log, event) makes it a row again.';

-- Written by the writer alone (src/rows.c). No key, index or default partition on the parent and no foreign keys: a restore attaches
-- the partitions as they are, and no open transaction of anybody can stall the writer.
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
    completed   boolean NOT NULL
) PARTITION BY RANGE (at);
COMMENT ON TABLE apikeys.request_log IS 'One row a request that named a key, admitted or denied; a partition a day (UTC).';
COMMENT ON COLUMN apikeys.request_log.at IS 'When the request was made, in engine time.';
COMMENT ON COLUMN apikeys.request_log.key_id IS 'The key that it named.';
COMMENT ON COLUMN apikeys.request_log.account_id IS 'The account of the key.';
COMMENT ON COLUMN apikeys.request_log.request_id IS 'The id that the verdict gave; complete() takes it.';
COMMENT ON COLUMN apikeys.request_log.endpoint IS 'What was asked for, as given to verify(), its first 2048 bytes; NULL: not said.';
COMMENT ON COLUMN apikeys.request_log.ip IS 'Address of the client as given to verify(), as much of it as apikeys.log_address keeps; NULL: none.';
COMMENT ON COLUMN apikeys.request_log.code IS 'The verdict''s code: valid, or why the request was denied.';
COMMENT ON COLUMN apikeys.request_log.status IS 'HTTP status: the verdict''s, then the response''s as given to complete().';
COMMENT ON COLUMN apikeys.request_log.duration_ms IS 'Time to the first byte of the response, in milliseconds, as given to complete().';
COMMENT ON COLUMN apikeys.request_log.cost IS 'Units that the request asked for.';
COMMENT ON COLUMN apikeys.request_log.credits IS 'What is billed for the request, as given to complete(); without effect on limits.';
COMMENT ON COLUMN apikeys.request_log.completed IS 'Whether complete() has told how the request ended; the first call wins.';
COMMENT ON COLUMN apikeys.request_log.category IS 'The key''s category at the time of the request.';
COMMENT ON COLUMN apikeys.request_log.product IS 'The product that the request named, be it one of the catalogue or not (its first 256 bytes); NULL: none.';

-- Half of a page is left free: a batch may change all rows of it, and the old versions are there until the next one comes.
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
COMMENT ON TABLE apikeys.usage_bucket IS 'Usage of each key (k) and account (a) in steps of 5 minutes, merged to hours after 2 days and to days after 90.';
COMMENT ON COLUMN apikeys.usage_bucket.subject IS 'k: of a key; a: of an account, over all its keys.';
COMMENT ON COLUMN apikeys.usage_bucket.subject_id IS 'The key_id or the account_id.';
COMMENT ON COLUMN apikeys.usage_bucket.bucket IS 'Start of the step.';
COMMENT ON COLUMN apikeys.usage_bucket.admitted IS 'Requests that were admitted.';
COMMENT ON COLUMN apikeys.usage_bucket.denied IS 'Requests that were denied.';
COMMENT ON COLUMN apikeys.usage_bucket.units IS 'Units that admitted requests used.';
COMMENT ON COLUMN apikeys.usage_bucket.errors IS 'Admitted requests completed with a status of 400 or more.';
COMMENT ON COLUMN apikeys.usage_bucket.credits IS 'What is billed for requests, as given to complete().';
COMMENT ON COLUMN apikeys.usage_bucket.unlogged IS 'Requests, admitted or denied, that are not in the request log because apikeys.log_requests was off.';

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
    PRIMARY KEY (subject, subject_id)
) WITH (fillfactor = 45);
COMMENT ON TABLE apikeys.usage_total IS 'All usage so far of each key (k) and account (a). A key with a row here is used: it can never be deleted.';
COMMENT ON COLUMN apikeys.usage_total.subject IS 'k: of a key; a: of an account, over all its keys.';
COMMENT ON COLUMN apikeys.usage_total.subject_id IS 'The key_id or the account_id.';
COMMENT ON COLUMN apikeys.usage_total.admitted IS 'Requests that were admitted.';
COMMENT ON COLUMN apikeys.usage_total.denied IS 'Requests that were denied.';
COMMENT ON COLUMN apikeys.usage_total.units IS 'Units that admitted requests used.';
COMMENT ON COLUMN apikeys.usage_total.errors IS 'Admitted requests completed with a status of 400 or more.';
COMMENT ON COLUMN apikeys.usage_total.credits IS 'What is billed for requests, as given to complete().';
COMMENT ON COLUMN apikeys.usage_total.first_used_at IS 'Time of the first request, admitted or denied.';
COMMENT ON COLUMN apikeys.usage_total.last_used_at IS 'Time of the last request, admitted or denied.';

-- One call a statement: each updates the extension's own row.
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
