-- The same rules in Redis. KEYS[1]: key:<digest>, the client has hashed the key text; ARGV[1]: endpoint, ARGV[2]: cost.
--
-- Key and account are hashes: settings, caps, and for each window its sum, the bucket that it was last moved to, and its buckets: of
-- 1/128 of the window, 129 of them, as verify has them. A call reads each hash once, moves its windows on, and writes it once.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local cost = tonumber(ARGV[2])

-- Names of a subject's windows and the length of their buckets in microseconds.
local key_windows = {{'d', 86400e6 / 128}, {'w', 604800e6 / 128}, {'m', 2592000e6 / 128}}
local account_windows = {{'s', 1e6 / 128}, {'n', 60e6 / 128}}

local function read(hash, windows, ...)
    local fields = {...}
    local fixed = #fields
    local n = fixed
    local bucket = {}
    for i, window in ipairs(windows) do
        bucket[i] = math.floor(now / window[2])
        fields[n + 1] = 'cap_' .. window[1]
        fields[n + 2] = 'sum_' .. window[1]
        fields[n + 3] = 'at_' .. window[1]
        fields[n + 4] = window[1] .. bucket[i]
        n = n + 4
    end
    local values = redis.call('HMGET', hash, unpack(fields))
    if not values[1] then
        return values, nil
    end
    local rings = {}
    for i, window in ipairs(windows) do
        local at = fixed + 4 * (i - 1)
        local sum = tonumber(values[at + 2]) or 0
        local last = tonumber(values[at + 3]) or bucket[i]
        if last < bucket[i] then
            local gone = {}
            for b = last - 128, math.min(bucket[i] - 129, last) do
                gone[#gone + 1] = window[1] .. b
            end
            for _, units in ipairs(redis.call('HMGET', hash, unpack(gone))) do
                sum = sum - (tonumber(units) or 0)
            end
            redis.call('HDEL', hash, unpack(gone))
            redis.call('HSET', hash, 'sum_' .. window[1], sum, 'at_' .. window[1], bucket[i])
        end
        rings[i] = {window[1], tonumber(values[at + 1]), sum, bucket[i], tonumber(values[at + 4]) or 0}
    end
    return values, rings
end

local function write(hash, rings, ...)
    local pairs = {...}
    local n = #pairs
    for _, ring in ipairs(rings) do
        pairs[n + 1] = 'sum_' .. ring[1]
        pairs[n + 2] = ring[3] + cost
        pairs[n + 3] = 'at_' .. ring[1]
        pairs[n + 4] = ring[4]
        pairs[n + 5] = ring[1] .. ring[4]
        pairs[n + 6] = ring[5] + cost
        n = n + 6
    end
    redis.call('HSET', hash, unpack(pairs))
end

local key, key_rings = read(KEYS[1], key_windows, 'account', 'active', 'expires', 'cap_t', 'sum_t')
if not key_rings then
    return {0, 401, 'invalid'}
end
local account_hash = 'account:' .. key[1]
local account, account_rings = read(account_hash, account_windows, 'active')
local code = 'valid'
local tightest, cap, remaining = 't', tonumber(key[4]), tonumber(key[4]) - (tonumber(key[5]) or 0) - cost
if key[2] ~= '1' or account[1] ~= '1' then
    code = 'inactive'
elseif key[3] and tonumber(key[3]) <= now then
    code = 'expired'
else
    if remaining < 0 then
        code = 'quota_exceeded'
    end
    for _, rings in ipairs({account_rings, key_rings}) do
        for _, ring in ipairs(rings) do
            local left = ring[2] - ring[3] - cost
            if left < 0 then
                code = 'quota_exceeded'
            end
            if left / ring[2] < remaining / cap then
                tightest, cap, remaining = ring[1], ring[2], left
            end
        end
    end
    if code == 'valid' then
        write(account_hash, account_rings)
        write(KEYS[1], key_rings, 'sum_t', (tonumber(key[5]) or 0) + cost)
    end
end
local status = code == 'valid' and 200 or 401
local id = redis.call('XADD', 'log', 'MAXLEN', '~', 1000000, '*', 'key', KEYS[1], 'account', key[1], 'code', code, 'status', status,
    'endpoint', ARGV[1], 'cost', cost)
return {status == 200 and 1 or 0, status, code, key[1], id, tightest, cap, remaining}
