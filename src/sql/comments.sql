-- Columns of views: a column without a comment of its own gets that of the table's column.

DO $$
DECLARE
    shown record;
BEGIN
    FOR shown IN
        SELECT v.view, a.attname, coalesce(col_description(t.attrelid, t.attnum), 'Name of the account.') AS description
        FROM (VALUES ('key_list', 'key'), ('log', 'request_log'), ('notice_list', 'notice'), ('upgrade_list', 'upgrade_request'),
                     ('upgrade_queue', 'upgrade_request')) AS v (view, source)
        JOIN pg_attribute AS a ON a.attrelid = ('apikeys.' || v.view)::regclass AND a.attnum > 0
        LEFT JOIN pg_attribute AS t ON t.attrelid = ('apikeys.' || v.source)::regclass AND t.attname = a.attname
        WHERE col_description(a.attrelid, a.attnum) IS NULL AND (t.attname IS NOT NULL OR a.attname = 'account')
    LOOP
        EXECUTE format('COMMENT ON COLUMN apikeys.%I.%I IS %L', shown.view, shown.attname, shown.description);
    END LOOP;
END
$$;
