// postgres.js has the server describe each statement and writes values as their types ask for.
const postgres = require('postgres');
const tap = require('./tap');

tap.run(async () => {
    const sql = postgres({ host: process.env.PGHOST, database: process.env.PGDATABASE, user: 'my_gateway', max: 1 });
    const ask = async (key, path = '/v1/maps', ip = '192.0.2.7', cost = 1, scopes = null) => (await sql`
        SELECT v.*, r.headers, r.body
        FROM apikeys.verify(${key}, endpoint => ${path}, ip => ${ip}, cost => ${cost}, scopes => ${scopes}) AS v, apikeys.http_response(v) AS r`)[0];

    const v = await ask(tap.KEY);
    tap.checkValid(v);
    tap.equal('no path and no address', (await ask(tap.KEY, null, null)).code, 'valid');
    tap.equal('cost and scopes', (await ask(tap.KEY, '/a', '192.0.2.7', 3, ['read'])).code, 'valid');
    tap.equal('no scopes', (await ask(tap.KEY, '/a', '192.0.2.7', 0, [])).code, 'valid');
    tap.checkDenied(await ask(tap.SMALL), await ask(tap.SMALL));
    tap.checkInvalid(await ask('no key'));

    const complete = async (duration, credits) => (await sql`
        SELECT apikeys.complete(${v.request_id}, status => ${200}, duration_ms => ${duration}, credits => ${credits}) AS done`)[0].done;
    tap.equal('completed', await complete(12.5, 2), true);
    tap.equal('a whole number of milliseconds, no credits', await complete(12, null), true);

    const many = await sql`SELECT * FROM apikeys.verify_many(${[tap.KEY, 'no key']}, endpoints => ${['/a', null]}, ips => ${['192.0.2.7', null]}, costs => ${[1, 1]})`;
    tap.equal('many', many.map(row => [row.n, row.code]), [[1, 'valid'], [2, 'invalid']]);
    tap.equal('many completed', (await sql`SELECT apikeys.complete_many(${[many[0].request_id]}, ${[200]}, ${[1.5]}, ${[3]}) AS n`)[0].n, '1');
    tap.checkFacts((await sql`SELECT apikeys.key_facts(${tap.KEY}, ip => ${'192.0.2.7'}) AS facts`)[0].facts);
    await sql.end();
});
