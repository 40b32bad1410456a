-- Sets a key, with its expiration, and tells who watches. Touches nothing if the key's being there is not what the caller wants.
--
-- KEYS 1: the key, 2: its /expiring, 3: its /expired, 4: the mark of its expiry, 5: claims, 6: the values of claims
-- ARGV 1: the value, 2: seconds until it expires (0: never), 3: 1 to overwrite, 4: the channel, 5: the event of a creation,
--   6: the event of a change
-- Returns 1 if it is stored, 0 if not
-- Source: ours; EXISTS, SET, EXPIRE, SET, DEL and PUBLISH of the reference, in one step
local there = redis.call('EXISTS', KEYS[1])
if there ~= tonumber(ARGV[3]) then
  return 0
end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  -- A day for those who watch to take what has expired.
  redis.call('SET', KEYS[1], ARGV[1], 'EX', string.format('%.0f', tonumber(ARGV[2]) + 86400))
  redis.call('SET', KEYS[2], '', 'EX', ARGV[2])
  redis.call('DEL', KEYS[3])
end
-- What has expired before is nobody's any more.
redis.call('DEL', KEYS[4])
redis.call('HDEL', KEYS[5], KEYS[1])
redis.call('HDEL', KEYS[6], KEYS[1])
redis.call('PUBLISH', ARGV[4], ARGV[5 + there])
return 1
