// node-postgres sends values as texts without a type.
const { Client } = require('pg');
const tap = require('./tap');

tap.run(async () => {
    const db = new Client({ user: 'my_gateway' });
    await db.connect();
    const ask = async (key, { path = '/v1/maps', ip = '192.0.2.7', more = '', values = [] } = {}) => (await db.query(
        `SELECT v.*, r.headers, r.body
         FROM apikeys.verify($1, endpoint => $2, ip => $3${more}) AS v, apikeys.http_response(v) AS r`, [key, path, ip, ...values])).rows[0];

    const v = await ask(tap.KEY);
    tap.checkValid(v);
    tap.equal('no path and no address', (await ask(tap.KEY, { path: null, ip: null })).code, 'valid');
    tap.equal('cost, scopes, origin, product', (await ask(tap.KEY, {
        more: ', cost => $4, scopes => $5, origin => $6, product => $7', values: [3, ['read'], 'https://a.example', 'maps'] })).code, 'valid');
    tap.equal('no scopes', (await ask(tap.KEY, { more: ', cost => $4, scopes => $5', values: ['0', []] })).code, 'valid');
    tap.checkDenied(await ask(tap.SMALL), await ask(tap.SMALL));
    tap.checkInvalid(await ask('no key'));

    const complete = async values => (await db.query('SELECT apikeys.complete($1, status => $2, duration_ms => $3, credits => $4) AS done', values)).rows[0].done;
    tap.equal('completed', await complete([v.request_id, 200, 12.5, 2]), true);
    tap.equal('a whole number of milliseconds, no credits', await complete([v.request_id, 200, 12, null]), true);

    const many = (await db.query('SELECT * FROM apikeys.verify_many($1, endpoints => $2, ips => $3, costs => $4)',
        [[tap.KEY, 'no key'], ['/a', null], ['192.0.2.7', null], [1, 1]])).rows;
    tap.equal('many', many.map(row => [row.n, row.code]), [[1, 'valid'], [2, 'invalid']]);
    tap.equal('many completed', (await db.query('SELECT apikeys.complete_many($1, $2, $3, $4) AS n', [[many[0].request_id], [200], [1.5], [3]])).rows[0].n, '1');
    tap.checkFacts((await db.query('SELECT apikeys.key_facts($1, ip => $2) AS facts', [tap.KEY, '192.0.2.7'])).rows[0].facts);
    await db.end();
});
