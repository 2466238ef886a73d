// pgx asks for the types of the parameters, and binds Go's values to them.
package main

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"strconv"

	"github.com/jackc/pgx/v4"
)

const (
	key   = "text of the client's key"
	small = "text of a small key"
)

var count, failures int

func equal(what string, got, expected interface{}) {
	count++
	result := "ok"
	if !reflect.DeepEqual(got, expected) {
		failures++
		result = "not ok"
		fmt.Printf("# got %v, expected %v\n", got, expected)
	}
	fmt.Printf("%s %d - %s\n", result, count, what)
}

func must(err error) {
	if err != nil {
		fmt.Printf("not ok %d - %v\n", count+1, err)
		os.Exit(1)
	}
}

type verdict struct {
	allowed          bool
	status           int
	code             string
	account, request *string
	subject, window  *string
	limit            *int64
	reset, retry     *float64
	headers, body    map[string]string
}

func main() {
	ctx := context.Background()
	db, err := pgx.Connect(ctx, "user=my_gateway")
	must(err)
	ask := func(key string, path, ip interface{}, cost int64, scopes []string) (v verdict) {
		must(db.QueryRow(ctx, `SELECT v.allowed, v.status, v.code, v.account, v.request_id::text, v.limit_subject, v.limit_window, v.limit_cap,
			v.reset_after_s, v.retry_after_s, r.headers, r.body
			FROM apikeys.verify($1, endpoint => $2, ip => $3, cost => $4, scopes => $5) AS v, apikeys.http_response(v) AS r`,
			key, path, ip, cost, scopes).Scan(&v.allowed, &v.status, &v.code, &v.account, &v.request, &v.subject, &v.window, &v.limit,
			&v.reset, &v.retry, &v.headers, &v.body))
		return
	}

	v := ask(key, "/v1/maps", "192.0.2.7", 1, nil)
	equal("allowed", []interface{}{v.allowed, v.status, v.code, *v.account}, []interface{}{true, 200, "valid", "acme"})
	equal("its limit", []interface{}{*v.subject, *v.window, *v.limit}, []interface{}{"key", "day", int64(1000)})
	equal("seconds are numbers", *v.reset > 86400 && v.retry == nil, true)
	equal("headers to add", v.headers["RateLimit-Policy"], `"key-day";q=1000;w=86400`)
	equal("no path and no address", ask(key, nil, nil, 1, []string{"read"}).code, "valid")
	equal("no scopes", ask(key, nil, nil, 0, []string{}).code, "valid")
	equal("within the quota", ask(small, nil, nil, 1, nil).code, "valid")
	denied := ask(small, nil, nil, 1, nil)
	equal("denied by its quota", []interface{}{denied.status, denied.code}, []interface{}{401, "quota_exceeded"})
	after, err := strconv.ParseFloat(denied.headers["Retry-After"], 64)
	must(err)
	equal("Retry-After is the seconds, rounded up", after >= *denied.retry && after < *denied.retry+1, true)
	equal("the body", denied.body, map[string]string{"error": "Rate limit exceeded: quota daily"})

	var done bool
	must(db.QueryRow(ctx, "SELECT apikeys.complete($1, status => $2, duration_ms => $3, credits => $4)", *v.request, 200, 12.5, int64(2)).Scan(&done))
	equal("completed", done, true)
	must(db.QueryRow(ctx, "SELECT apikeys.complete($1, status => $2, duration_ms => $3, credits => $4)", *v.request, 200, 12, nil).Scan(&done))
	equal("a whole number of milliseconds, no credits", done, true)

	rows, err := db.Query(ctx, "SELECT n, code FROM apikeys.verify_many($1, endpoints => $2, ips => $3, costs => $4)",
		[]string{key, "no key"}, []string{"/a", "/b"}, []string{"192.0.2.7", "2001:db8::1"}, []int64{1, 1})
	must(err)
	var many []string
	for rows.Next() {
		var n int
		var code string
		must(rows.Scan(&n, &code))
		many = append(many, fmt.Sprint(n, " ", code))
	}
	must(rows.Err())
	equal("many", many, []string{"1 valid", "2 invalid"})

	var facts map[string]interface{}
	must(db.QueryRow(ctx, "SELECT apikeys.key_facts($1, ip => $2)", key, "192.0.2.7").Scan(&facts))
	equal("what the key stands for", []interface{}{facts["account"], facts["tier"]}, []interface{}{"acme", "silver"})
	fmt.Printf("1..%d\n", count)
	if failures > 0 {
		os.Exit(1)
	}
}
