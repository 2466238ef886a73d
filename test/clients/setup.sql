-- What a client finds: an account, and its keys by texts that the clients know.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION apikeys;
SELECT apikeys.create_plan('default');
SELECT apikeys.create_tier('silver', 1, '1000/day');
SELECT apikeys.import_key('acme', 'text of the client''s key', alias => 'client', tier => 'silver', scopes => '{read,write:all}', metadata => '{"team": "maps"}');
SELECT apikeys.import_key('acme', 'text of a small key', alias => 'small', limits => '1/day');
CREATE ROLE my_gateway LOGIN IN ROLE apikeys_verifier;
