"""The page's example for psycopg: pipeline.py PAGE CONNINFO KEY. Prints the answers to KEY, to an unknown key, and to KEY again."""
import re
import sys

import psycopg

page, conninfo, key = sys.argv[1:]
with open(page, encoding="utf-8") as text:
    exec(re.search(r"^```python\n(.*?)^```", text.read(), re.M | re.S)[1])  # pylint: disable=exec-used

with psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as db:
    for presented in (key, "ak_0000000000000000000000000000000000000", key):
        status, headers, body = list_orders(db, presented, "192.0.2.7")  # noqa: F821  # pylint: disable=undefined-variable
        print(status, " ".join(item for _, item in body) if status == 200 else body["error"])
    print("after:", db.execute("SELECT coalesce(apikeys.current_account(), 'nobody'), (SELECT count(*) FROM shop.orders)").fetchone())
