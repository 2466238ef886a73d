# What the tests in Python share: the keys of setup.sql, and what is expected of an answer.
KEY = "text of the client's key"
SMALL = "text of a small key"
count = failures = 0


def equal(what, got, expected):
    global count, failures
    count += 1
    if got != expected:
        failures += 1
        print(f"# got {got!r}, expected {expected!r}")
    print(f"{'ok' if got == expected else 'not ok'} {count} - {what}", flush=True)


def check_valid(v):
    equal("allowed", (v.allowed, v.status, v.code, v.account), (True, 200, "valid", "acme"))
    equal("its limit", (v.limit_subject, v.limit_window, v.limit_cap), ("key", "day", 1000))
    equal("seconds are numbers", (type(v.reset_after_s), v.retry_after_s), (float, None))
    equal("headers to add", sorted(v.headers), ["RateLimit", "RateLimit-Policy"])
    equal("no body", v.body, None)


def check_denied(first, second):
    equal("denied by its quota", (first.code, second.allowed, second.status, second.code), ("valid", False, 401, "quota_exceeded"))
    equal("Retry-After is the seconds, rounded up", 0 <= int(second.headers["Retry-After"]) - second.retry_after_s < 1, True)
    equal("the body", second.body, {"error": "Rate limit exceeded: quota daily"})


def check_invalid(v):
    equal("no key", (v.status, v.headers), (401, {"WWW-Authenticate": 'Bearer realm="api", error="invalid_token"'}))


def check_facts(facts):
    equal("what the key stands for", (facts["account"], facts["scopes"], facts["metadata"], facts["tier"]),
          ("acme", ["read", "write:all"], {"team": "maps"}, "silver"))


def done():
    print(f"1..{count}")
    raise SystemExit(failures > 0)
