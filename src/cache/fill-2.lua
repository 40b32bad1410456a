-- Stores what the holder of a lease has loaded, unless a value stands there, and ends the lease.
--
-- KEYS 1: the value, 2: the lease
-- ARGV 1: the token, 2: the value, 3: seconds to live (0: without end), 4: the channel of those who wait
-- Returns 0 if it is stored, 1 if a value stands there, 2 if the key was deleted since, 3 if the lease is over
-- Source: ours; the reference's SET NX
local lease = redis.call('HMGET', KEYS[2], 'token', 'wanted', 'voided')
if lease[1] ~= ARGV[1] then
  return lease[3] == ARGV[1] and 2 or 3
end
local stored
if ARGV[3] == '0' then
  stored = redis.call('SET', KEYS[1], ARGV[2], 'NX')
else
  stored = redis.call('SET', KEYS[1], ARGV[2], 'NX', 'EX', ARGV[3])
end
redis.call('DEL', KEYS[2])
if lease[2] then
  -- Only a wake-up: whether or not the gateway's user may publish, the value stands.
  redis.pcall('PUBLISH', ARGV[4], KEYS[1])
end
return stored and 0 or 1
