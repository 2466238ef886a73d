// What the tests for node share: the keys of setup.sql, and what is expected of an answer.
const assert = require('assert');
let count = 0;

exports.KEY = "text of the client's key";
exports.SMALL = 'text of a small key';

const equal = exports.equal = (what, got, expected) => {
    count += 1;
    try {
        assert.deepStrictEqual(got, expected);
        console.log(`ok ${count} - ${what}`);
    } catch (error) {
        process.exitCode = 1;
        console.log(`# got ${JSON.stringify(got)}, expected ${JSON.stringify(expected)}\nnot ok ${count} - ${what}`);
    }
};

// bigint comes as a text, so that no digit is lost.
exports.checkValid = v => {
    equal('allowed', [v.allowed, v.status, v.code, v.account], [true, 200, 'valid', 'acme']);
    equal('its limit', [v.limit_subject, v.limit_window, v.limit_cap], ['key', 'day', '1000']);
    equal('seconds are numbers', [typeof v.reset_after_s, v.retry_after_s], ['number', null]);
    equal('headers to add', Object.keys(v.headers).sort(), ['RateLimit', 'RateLimit-Policy']);
    equal('no body', v.body, null);
};

exports.checkDenied = (first, second) => {
    equal('denied by its quota', [first.code, second.allowed, second.status, second.code], ['valid', false, 401, 'quota_exceeded']);
    equal('Retry-After is the seconds, rounded up', second.headers['Retry-After'], String(Math.ceil(second.retry_after_s)));
    equal('the body', second.body, { error: 'Rate limit exceeded: quota daily' });
};

exports.checkInvalid = v => equal('no key', [v.status, v.headers], [401, { 'WWW-Authenticate': 'Bearer realm="api", error="invalid_token"' }]);

exports.checkFacts = facts => equal('what the key stands for', [facts.account, facts.scopes, facts.metadata, facts.tier],
    ['acme', ['read', 'write:all'], { team: 'maps' }, 'silver']);

// A connection that is left open must not keep the process.
exports.run = test => test().catch(error => {
    process.exitCode = 1;
    console.log(`not ok ${count + 1} - ${error.message}`);
}).then(() => {
    console.log(`1..${count}`);
    process.exit();
});
