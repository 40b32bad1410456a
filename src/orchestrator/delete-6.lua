-- Deletes a key that holds a value, with what stands beside it, and tells who watches. Touches nothing if it holds another one.
--
-- KEYS 1: the key, 2: its /expiring, 3: its /expired, 4: the mark of its expiry, 5: claims, 6: the values of claims
-- ARGV 1: the value, 2: the channel, 3: the event
-- Returns the value that it had (nil: it was not there)
-- Source: ours; GET, DEL and PUBLISH of the reference, in one step
local value = redis.call('GET', KEYS[1])
if value == ARGV[1] then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
  redis.call('HDEL', KEYS[5], KEYS[1])
  redis.call('HDEL', KEYS[6], KEYS[1])
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return value
