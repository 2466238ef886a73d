# psycopg 3 as README.md shows it: str without a type, numbers with theirs, one parameter protocol.
import ipaddress
import uuid

import psycopg
from psycopg.rows import namedtuple_row

import tap

db = psycopg.connect("user=my_gateway", row_factory=namedtuple_row, autocommit=True)


def ask(key, path="/v1/maps", ip="192.0.2.7", **others):
    named = "".join(f", {name} => %s" for name in others)
    return db.execute(f"""SELECT v.*, r.headers, r.body
        FROM apikeys.verify(%s, endpoint => %s, ip => %s{named}) AS v, apikeys.http_response(v) AS r""", (key, path, ip, *others.values())).fetchone()


v = ask(tap.KEY)
tap.check_valid(v)
tap.equal("the request's id", type(v.request_id), uuid.UUID)
tap.equal("an address by its type", ask(tap.KEY, ip=ipaddress.ip_address("2001:db8::1")).code, "valid")
tap.equal("no path and no address", ask(tap.KEY, None, None).code, "valid")
tap.equal("cost, scopes, origin, product", ask(tap.KEY, cost=3, scopes=["read"], origin="https://a.example", product="maps").remaining, 994)
tap.equal("no scopes", ask(tap.KEY, cost=0, scopes=[]).code, "valid")
tap.check_denied(ask(tap.SMALL), ask(tap.SMALL))
tap.check_invalid(ask("no key"))

complete = "SELECT apikeys.complete(%s, status => %s, duration_ms => %s, credits => %s)"
tap.equal("completed", db.execute(complete, (v.request_id, 200, 12.5, 2)).fetchone()[0], True)
tap.equal("a whole number of milliseconds, no credits", db.execute(complete, (str(v.request_id), 200, 12, None)).fetchone()[0], True)

rows = db.execute("SELECT * FROM apikeys.verify_many(%s, endpoints => %s, ips => %s, costs => %s)",
                  ([tap.KEY, "no key"], ["/a", None], ["192.0.2.7", None], [1, 1])).fetchall()
tap.equal("many", [(row.n, row.code) for row in rows], [(1, "valid"), (2, "invalid")])
tap.equal("many completed", db.execute("SELECT apikeys.complete_many(%s, %s, %s, %s)", ([rows[0].request_id], [200], [1.5], [3])).fetchone()[0], 1)
tap.check_facts(db.execute("SELECT apikeys.key_facts(%s, ip => %s)", (tap.KEY, "192.0.2.7")).fetchone()[0])
tap.done()
