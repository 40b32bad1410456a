-- Claims a key that has expired, for one client or for whoever comes: it is there, its /expiring is gone, and it has no more than the
-- day to live that is left after its expiration. A key without a time to live never expires.
--
-- An expiration that is over ends here, if Redis has not come upon it: who hears of it then finds that the key is claimed.
--
-- KEYS 1: the key, 2: its /expiring, 3: its /expired, 4: the mark of its expiry, 5: claims, 6: the values of claims
-- ARGV 1: the claim's id, 2: the client ('': none), 3: milliseconds of its lease, 4: the channel that tells of expiries
-- Returns a state (0: somebody else has it, or it never expires, 1: it is claimed, 2: it is not due), the value, and the milliseconds
--   until it is due
-- Source: ours; GET, SET and DEL of the reference, in one step
local due = redis.call('PTTL', KEYS[2])
if due >= 0 then
  return {2, '', due}
end
local left = redis.call('PTTL', KEYS[1])
if left <= 0 or left > 86400000 or due == -1 then
  return {0, '', 0}
end
local value = redis.call('GET', KEYS[1])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if value == '' then
  -- It stays, as the reference leaves it. When it ends tells its lives apart: one that is set later ends later, by a second at least.
  local marked = tonumber(redis.call('GET', KEYS[4]) or 0)
  if math.abs(now + left - marked) < 500 then
    return {0, '', 0}
  end
  redis.call('SET', KEYS[4], string.format('%.0f', now + left), 'PX', left)
else
  redis.call('SET', KEYS[3], value)
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[5], KEYS[1], string.format('%.0f', now + tonumber(ARGV[3])) .. ' ' .. ARGV[1] .. ' ' .. ARGV[2])
redis.call('HSET', KEYS[6], KEYS[1], value)
redis.call('EXPIRE', KEYS[5], 86400)
redis.call('EXPIRE', KEYS[6], 86400)
local told = {ARGV[1], #KEYS[1], KEYS[1], #ARGV[2], ARGV[2], value}
redis.call('PUBLISH', ARGV[4], table.concat(told, ' '))
return {1, value, 0}
