-- The same rules in Redis. KEYS[1]: key:<digest>, the client has hashed the key text; ARGV[1]: endpoint, ARGV[2]: cost.
--
-- Key and account are hashes: settings, caps, and for each window its sum, the bucket up to which it was moved, and the buckets. A key's
-- are 1/128 of the window, as verify has them; an account's (second, minute) 1/8, for most of 128 would be empty, and moving on past them
-- cost more than all the rest. A call reads each hash once and writes it once; only where buckets have run out is there more to do.
local call, floor = redis.call, math.floor
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]
local cost = tonumber(ARGV[2])
local d, w, m = floor(now / 675e6), floor(now / 4725e6), floor(now / 20250e6)
local s, n = floor(now / 125e3), floor(now / 7500e3)

-- What a window still counts when it is moved from bucket `last` to `current`; `kept` buckets before that stay.
local function moved(hash, name, sum, last, current, kept)
    sum = tonumber(sum) or 0
    last = tonumber(last) or current
    if last >= current then
        return sum
    end
    local gone = {}
    for b = last - kept, math.min(current - kept - 1, last) do
        gone[#gone + 1] = name .. b
    end
    for _, units in ipairs(call('HMGET', hash, unpack(gone))) do
        sum = sum - (units or 0)
    end
    call('HDEL', hash, unpack(gone))
    call('HSET', hash, 'sum_' .. name, sum, 'at_' .. name, current)
    return sum
end

local key = call('HMGET', KEYS[1], 'account', 'active', 'expires', 'cap_t', 'sum_t', 'cap_d', 'sum_d', 'at_d', 'd' .. d,
    'cap_w', 'sum_w', 'at_w', 'w' .. w, 'cap_m', 'sum_m', 'at_m', 'm' .. m)
if not key[1] then
    return {0, 401, 'invalid'}
end
local owner = 'account:' .. key[1]
local account = call('HMGET', owner, 'active', 'cap_s', 'sum_s', 'at_s', 's' .. s, 'cap_n', 'sum_n', 'at_n', 'n' .. n)
local code = 'valid'
local tightest, cap, remaining
if key[2] ~= '1' or account[1] ~= '1' then
    code = 'inactive'
elseif key[3] and tonumber(key[3]) <= now then
    code = 'expired'
else
    local sum_t = tonumber(key[5]) or 0
    local sum_d = moved(KEYS[1], 'd', key[7], key[8], d, 128)
    local sum_w = moved(KEYS[1], 'w', key[11], key[12], w, 128)
    local sum_m = moved(KEYS[1], 'm', key[15], key[16], m, 128)
    local sum_s = moved(owner, 's', account[3], account[4], s, 8)
    local sum_n = moved(owner, 'n', account[7], account[8], n, 8)
    local share = 2
    local function check(name, most, sum)
        most = tonumber(most)
        local left = most - sum - cost
        if left < 0 then
            code = 'quota_exceeded'
        end
        if left / most < share then
            tightest, cap, remaining, share = name, most, left, left / most
        end
    end
    check('s', account[2], sum_s)
    check('n', account[6], sum_n)
    check('d', key[6], sum_d)
    check('w', key[10], sum_w)
    check('m', key[14], sum_m)
    check('t', key[4], sum_t)
    if code == 'valid' then
        call('HSET', owner, 'sum_s', sum_s + cost, 'at_s', s, 's' .. s, (account[5] or 0) + cost,
            'sum_n', sum_n + cost, 'at_n', n, 'n' .. n, (account[9] or 0) + cost)
        call('HSET', KEYS[1], 'sum_t', sum_t + cost, 'sum_d', sum_d + cost, 'at_d', d, 'd' .. d, (key[9] or 0) + cost,
            'sum_w', sum_w + cost, 'at_w', w, 'w' .. w, (key[13] or 0) + cost, 'sum_m', sum_m + cost, 'at_m', m, 'm' .. m, (key[17] or 0) + cost)
    end
end
local status = code == 'valid' and 200 or 401
local id = call('XADD', 'log', 'MAXLEN', '~', 1000000, '*', 'key', KEYS[1], 'account', key[1], 'code', code, 'status', status,
    'endpoint', ARGV[1], 'cost', cost)
return {status == 200 and 1 or 0, status, code, key[1], id, tightest, cap, remaining}
