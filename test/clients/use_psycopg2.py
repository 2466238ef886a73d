# psycopg2 writes values into the statement: texts without a type, lists as ARRAY[...], whose elements are texts.
import psycopg2
import psycopg2.extras

import tap

db = psycopg2.connect("user=my_gateway")
db.autocommit = True
cursor = db.cursor(cursor_factory=psycopg2.extras.NamedTupleCursor)


def fetch(statement, values):
    cursor.execute(statement, values)
    return cursor.fetchall()


def ask(key, path="/v1/maps", ip="192.0.2.7", **others):
    named = "".join(f", {name} => %s" for name in others)
    return fetch(f"""SELECT v.*, r.headers, r.body
        FROM apikeys.verify(%s, endpoint => %s, ip => %s{named}) AS v, apikeys.http_response(v) AS r""", (key, path, ip, *others.values()))[0]


v = ask(tap.KEY)
tap.check_valid(v)
tap.equal("the request's id", type(v.request_id), str)
tap.equal("no path and no address", ask(tap.KEY, None, None).code, "valid")
tap.equal("cost, scopes, origin, product", ask(tap.KEY, cost=3, scopes=["read"], origin="https://a.example", product="maps").code, "valid")
tap.equal("no scopes", ask(tap.KEY, cost=0, scopes=[]).code, "valid")
tap.check_denied(ask(tap.SMALL), ask(tap.SMALL))
tap.check_invalid(ask("no key"))

complete = "SELECT apikeys.complete(%s, status => %s, duration_ms => %s, credits => %s)"
tap.equal("completed", fetch(complete, (v.request_id, 200, 12.5, 2))[0][0], True)
tap.equal("a whole number of milliseconds, no credits", fetch(complete, (v.request_id, 200, 12, None))[0][0], True)

rows = fetch("SELECT * FROM apikeys.verify_many(%s, endpoints => %s, ips => %s::inet[], costs => %s)",
             ([tap.KEY, "no key"], ["/a", None], ["192.0.2.7", None], [1, 1]))
tap.equal("many", [(row.n, row.code) for row in rows], [(1, "valid"), (2, "invalid")])
tap.equal("many completed", fetch("SELECT apikeys.complete_many(%s::uuid[], %s, %s, %s)", ([rows[0].request_id], [200], [1.5], [3]))[0][0], 1)
tap.check_facts(fetch("SELECT apikeys.key_facts(%s, ip => %s)", (tap.KEY, "192.0.2.7"))[0][0])
tap.done()
