-- The same rules as somebody would write them in plain SQL: one function that reads the key and its account, sums the windows, counts in
-- buckets and logs. It is kinder to itself than verify: requests at the same time can pass a cap together, and there are fewer checks.
CREATE SCHEMA peer;
CREATE TABLE peer.account (
    account_id bigint PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    active     boolean NOT NULL DEFAULT true,
    per_second bigint NOT NULL,
    per_minute bigint NOT NULL
);
CREATE TABLE peer.key (
    key_id     bigint PRIMARY KEY,
    account_id bigint NOT NULL,
    digest     bytea NOT NULL UNIQUE,
    active     boolean NOT NULL DEFAULT true,
    expires_at timestamptz,
    per_day    bigint NOT NULL,
    per_week   bigint NOT NULL,
    per_month  bigint NOT NULL,
    in_total   bigint NOT NULL
);
-- Buckets of 5 minutes for keys, of a second for accounts.
CREATE TABLE peer.usage_bucket (
    subject    "char",
    subject_id bigint,
    bucket     timestamptz,
    units      bigint NOT NULL,
    PRIMARY KEY (subject, subject_id, bucket)
) WITH (fillfactor = 70);
CREATE TABLE peer.usage_total (key_id bigint PRIMARY KEY, units bigint NOT NULL) WITH (fillfactor = 70);
CREATE TABLE peer.request_log (
    at         timestamptz NOT NULL,
    key_id     bigint NOT NULL,
    account_id bigint NOT NULL,
    code       text NOT NULL,
    status     smallint NOT NULL,
    endpoint   text,
    cost       int NOT NULL
);
CREATE INDEX ON peer.request_log (key_id, at);

CREATE FUNCTION peer.verify(
    presented text, path text, OUT allowed boolean, OUT status smallint, OUT code text, OUT key_id bigint, OUT account text, OUT remaining bigint
) LANGUAGE plpgsql AS $$
DECLARE
    present timestamptz := clock_timestamp();
    k       record;
    used    record;
    spent   record;
    total   bigint;
BEGIN
    SELECT y.*, a.name, a.active AS account_active, a.per_second, a.per_minute INTO k
    FROM peer.key AS y JOIN peer.account AS a USING (account_id)
    WHERE y.digest = sha256(convert_to(presented, 'UTF8'));
    key_id := k.key_id;
    account := k.name;
    code := CASE
        WHEN k.key_id IS NULL THEN 'invalid'
        WHEN NOT k.active OR NOT k.account_active THEN 'inactive'
        WHEN k.expires_at <= present THEN 'expired'
    END;
    IF code IS NULL THEN
        SELECT coalesce(sum(b.units) FILTER (WHERE b.bucket > present - interval '1 second'), 0) AS per_second,
               coalesce(sum(b.units), 0) AS per_minute
        INTO spent FROM peer.usage_bucket AS b
        WHERE b.subject = 'a' AND b.subject_id = k.account_id AND b.bucket > present - interval '1 minute';
        SELECT coalesce(sum(b.units) FILTER (WHERE b.bucket > present - interval '1 day'), 0) AS per_day,
               coalesce(sum(b.units) FILTER (WHERE b.bucket > present - interval '7 days'), 0) AS per_week,
               coalesce(sum(b.units), 0) AS per_month
        INTO used FROM peer.usage_bucket AS b
        WHERE b.subject = 'k' AND b.subject_id = k.key_id AND b.bucket > present - interval '30 days';
        SELECT t.units INTO total FROM peer.usage_total AS t WHERE t.key_id = k.key_id;
        total := coalesce(total, 0);
        remaining := least(k.per_day - used.per_day, k.per_week - used.per_week, k.per_month - used.per_month, k.in_total - total,
                           k.per_second - spent.per_second, k.per_minute - spent.per_minute) - 1;
        code := CASE WHEN remaining < 0 THEN 'quota_exceeded' ELSE 'valid' END;
    END IF;
    allowed := code = 'valid';
    status := CASE WHEN allowed THEN 200 ELSE 401 END;
    IF allowed THEN
        INSERT INTO peer.usage_bucket AS b VALUES ('a', k.account_id, date_trunc('second', present), 1)
        ON CONFLICT (subject, subject_id, bucket) DO UPDATE SET units = b.units + 1;
        INSERT INTO peer.usage_bucket AS b VALUES ('k', k.key_id, date_bin('5 minutes', present, 'epoch'), 1)
        ON CONFLICT (subject, subject_id, bucket) DO UPDATE SET units = b.units + 1;
        INSERT INTO peer.usage_total AS t VALUES (k.key_id, 1)
        ON CONFLICT ON CONSTRAINT usage_total_pkey DO UPDATE SET units = t.units + 1;
    END IF;
    IF k.key_id IS NOT NULL THEN
        INSERT INTO peer.request_log VALUES (present, k.key_id, k.account_id, code, status, path, 1);
    END IF;
END
$$;

INSERT INTO peer.account SELECT n, 'account-' || n, true, 1000000, 4000000000 FROM generate_series(1, 1000) AS n;
INSERT INTO peer.key
SELECT n, 1 + n / :step % 1000, sha256(convert_to('bench-' || n, 'UTF8')), true, NULL, 1000000000, 2000000000, 4000000000, 1000000000000
FROM generate_series(1, :keys) AS n;
