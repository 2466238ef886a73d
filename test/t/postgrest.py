"""What PostgREST sends, replayed: postgrest.py PAGE CONNINFO KEY SCOPELESS MANAGER FOREIGN_ID

The statements of a GET are those of the block `postgrest` of the page; each is prepared and executed as PostgREST does it. KEY has the
scope orders:write, SCOPELESS has not, MANAGER has apikeys:manage and an address, FOREIGN_ID is a key of another account.
Prints a line for each thing that must hold.
"""
import json
import re
import sys

from psycopg import pq

page, conninfo, KEY, SCOPELESS, MANAGER, FOREIGN_ID = sys.argv[1:]
with open(page, encoding="utf-8") as text:
    begin, settings, pre_request, read, end = re.search(r"^```postgrest\n(.*?)^```", text.read(), re.M | re.S)[1].splitlines()

ANSWER = """nullif(current_setting('response.headers', true), '') AS response_headers, \
nullif(current_setting('response.status', true), '') AS response_status, '' AS response_inserted """
INSERT = """WITH pgrst_source AS (INSERT INTO "shop"."orders"("item") SELECT "pgrst_body"."item" FROM (SELECT $1 AS json_data) \
pgrst_payload, LATERAL (SELECT "item" FROM json_to_record(pgrst_payload.json_data) AS _("item" text) ) pgrst_body  \
RETURNING "shop"."orders".*) SELECT '' AS total_result_set, pg_catalog.count(_postgrest_t) AS page_total, array[]::text[] AS header, \
coalesce(json_agg(_postgrest_t), '[]') AS body, """ + ANSWER + """FROM (SELECT "pgrst_source".* FROM "pgrst_source"   ) _postgrest_t"""
CALL_SCALAR = """WITH pgrst_source AS (SELECT pgrst_call.pgrst_scalar FROM (SELECT $1 AS json_data) pgrst_payload, LATERAL (SELECT "key_id" \
FROM json_to_record(pgrst_payload.json_data) AS _("key_id" bigint) LIMIT 1) pgrst_body , LATERAL (SELECT "shop"."deactivate_key"\
("key_id" := pgrst_body."key_id") pgrst_scalar) pgrst_call) SELECT null::bigint AS total_result_set, 1 AS page_total, \
coalesce(json_agg(_postgrest_t.pgrst_scalar)->0, 'null') AS body, """ + ANSWER + """FROM (SELECT "pgrst_source".* FROM "pgrst_source"   ) \
_postgrest_t"""
CALL_ROWS = """WITH pgrst_source AS (SELECT "pgrst_call".* FROM (SELECT $1 AS json_data) pgrst_payload, LATERAL (SELECT "alias" \
FROM json_to_record(pgrst_payload.json_data) AS _("alias" text) LIMIT 1) pgrst_body , LATERAL "shop"."create_key"\
("alias" := pgrst_body."alias") pgrst_call) SELECT null::bigint AS total_result_set, pg_catalog.count(_postgrest_t) AS page_total, \
coalesce(json_agg(_postgrest_t), '[]') AS body, """ + ANSWER + """FROM (SELECT "pgrst_source".* FROM "pgrst_source"   ) _postgrest_t"""
JSON = 114

connection = pq.PGconn.connect(conninfo.encode())
assert connection.status == pq.ConnStatus.OK, connection.error_message
prepared = {}


class Failed(Exception):
    """An error of the server, as PostgREST makes a response of it."""

    def __init__(self, result):
        self.state, self.message, self.detail = (
            (result.error_field(field) or b"").decode()
            for field in (pq.DiagnosticField.SQLSTATE, pq.DiagnosticField.MESSAGE_PRIMARY, pq.DiagnosticField.MESSAGE_DETAIL))
        super().__init__(self.state, self.message)


def checked(result):
    if result.status == pq.ExecStatus.FATAL_ERROR:
        raise Failed(result)
    return result


def statement(sql, parameters=(), types=()):
    """Executes a prepared statement; returns the row of its result."""
    if sql not in prepared:
        name = str(len(prepared)).encode()
        checked(connection.prepare(name, sql.encode(), types))
        prepared[sql] = name
    result = checked(connection.exec_prepared(prepared[sql], [p.encode() for p in parameters]))
    return {result.fname(i).decode(): result.get_value(0, i) for i in range(result.nfields)}


def request(method, path, headers, query=read, body=None, ending=end):
    """Returns status, headers and body of the response."""
    connection.exec_(begin.replace("READ ONLY", "READ ONLY" if method == "GET" else "READ WRITE").encode())
    try:
        statement(settings, ('"shop", "public"', "shop_api", '{"role":"shop_api"}', method, path, json.dumps(headers), "{}"))
        statement(pre_request)
        row = statement(query, *(((body,), (JSON,)) if body else ()))
    except Failed as failed:
        connection.exec_(b"ABORT")
        if failed.state != "PGRST":
            return failed.state, {}, failed.message
        detail = json.loads(failed.detail)
        return detail["status"], detail["headers"], json.loads(failed.message)
    checked(connection.exec_(ending.encode()))
    assert row["response_status"] is None
    added = {name: value for header in json.loads(row["response_headers"]) for name, value in header.items()}
    return 200, added, json.loads(row["body"])


def ok(holds, what, *found):
    print("ok" if holds else "not ok", "-", what, *(found if not holds else ()))


def sent(key=None):
    return {"host": "shop.example", "accept": "*/*", "x-real-ip": "192.0.2.9", **({"x-api-key": key} if key else {})}


answer = status, headers, body = request("GET", "/orders", sent(KEY))
ok(status == 200 and [order["item"] for order in body] == ["apples", "pears"], "GET: the rows of the key's account", answer)
ok(re.fullmatch(r'"key-day";r=\d+;t=\d+', headers["RateLimit"]) and re.fullmatch(r"[0-9a-f-]{36}", headers["X-Request-Id"]),
   "GET: headers of the limit and the request", answer)
left = int(re.search(r"r=(\d+)", headers["RateLimit"])[1])
_, headers, _ = request("GET", "/orders", sent(KEY), ending="ROLLBACK")
_, headers, _ = request("GET", "/orders", sent(KEY))
ok(int(re.search(r"r=(\d+)", headers["RateLimit"])[1]) == left - 2, "a transaction that is rolled back counts", headers)

answer = request("GET", "/orders", sent())
ok(answer == (401, {"WWW-Authenticate": 'Bearer realm="api"'}, {"code": "missing", "message": "Invalid API Key"}), "GET without a key", answer)
answer = request("GET", "/orders", sent("ak_0000000000000000000000000000000000000"))
ok(answer == (401, {"WWW-Authenticate": 'Bearer realm="api", error="invalid_token"'}, {"code": "invalid", "message": "Invalid API Key"}),
   "GET with an unknown key", answer)
answer = request("GET", "/orders", {**sent(MANAGER), "x-real-ip": "198.51.100.1"})
ok(answer[0] == 403 and answer[2]["code"] == "ip_not_allowed", "GET from another address", answer)

answer = request("POST", "/orders", sent(KEY), INSERT, '{"item":"figs"}')
ok(answer[0] == 200 and answer[2][0]["account"] == "acme" and answer[2][0]["item"] == "figs", "POST: a row of the key's account", answer)
answer = status, headers, body = request("POST", "/orders", sent(SCOPELESS), INSERT, '{"item":"figs"}')
ok(status == 403 and body["code"] == "insufficient_scope"
   and headers["WWW-Authenticate"] == 'Bearer realm="api", error="insufficient_scope", scope="orders:write"', "POST without the scope", answer)
answer = request("GET", "/orders", sent(SCOPELESS), INSERT, '{"item":"figs"}')
ok(answer[0] == "25006", "a GET writes nothing", answer)
answer = status, headers, body = request("GET", "/orders", sent(SCOPELESS))
ok(status == 401 and body["code"] == "quota_exceeded" and int(headers["Retry-After"]) > 0, "GET without quota", answer)

answer = request("POST", "/rpc/deactivate_key", sent(MANAGER), CALL_SCALAR, json.dumps({"key_id": int(FOREIGN_ID)}))
ok(answer == (404, {}, {"code": "P0002", "message": f"key {FOREIGN_ID} does not exist"}), "RPC: 404 for a key of another account", answer)
answer = request("POST", "/rpc/create_key", sent(MANAGER), CALL_ROWS, '{"alias":"shop"}')
ok(answer[0] == 409 and answer[2]["code"] == "23505", "RPC: 409 for an alias that is taken", answer)
answer = request("POST", "/rpc/create_key", sent(MANAGER), CALL_ROWS, '{"alias":"new"}')
ok(answer[0] == 403 and answer[2]["code"] == "42501", "RPC: 403 for a key that would be good for more", answer)
answer = request("POST", "/rpc/create_key", sent(KEY), CALL_ROWS, '{"alias":"new"}')
ok(answer[0] == 403 and answer[2]["code"] == "42501", "RPC: 403 for a key that may not manage", answer)
