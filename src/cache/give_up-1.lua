-- Ends a lease without a value.
--
-- KEYS 1: the lease
-- ARGV 1: the token, 2: the channel of those who wait, 3: the key of the value
-- Returns 1 if the lease was the token's, 0 if not
-- Source: ours
local lease = redis.call('HMGET', KEYS[1], 'token', 'wanted')
if lease[1] ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
if lease[2] then
  -- Only a wake-up, as in fill-3.
  redis.pcall('PUBLISH', ARGV[2], ARGV[3])
end
return 1
