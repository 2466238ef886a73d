-- Loads ARGV[1] keys over 1,000 accounts, ARGV[2] first.
local first, count = tonumber(ARGV[2]), tonumber(ARGV[1])
for n = first, first + count - 1 do
    redis.call('HSET', string.format('key:%012d', n), 'account', 1 + n % 1000, 'active', 1, 'cap_d', 1000000000, 'cap_w', 2000000000,
        'cap_m', 4000000000, 'cap_t', 1000000000000)
end
for n = 1, 1000 do
    redis.call('HSET', 'account:' .. n, 'active', 1, 'cap_s', 1000000, 'cap_n', 4000000000)
end
