-- Gives the lease to load a value again while it stands, unless somebody has a lease, or more is left of the value than was thought.
--
-- KEYS 1: the value, 2: the lease
-- ARGV 1: the token of the lease that is asked for, 2: milliseconds that it lives, 3: the most milliseconds that may be left of the
--   value
-- Returns 1 if the lease is the caller's, 0 if not
-- Source: ours
-- As in get_or_lease-2.
if redis.call('PTTL', KEYS[2]) > 0 and redis.call('HEXISTS', KEYS[2], 'token') == 1 then
  return 0
end
local left = redis.call('PTTL', KEYS[1])
if left < 0 or left > tonumber(ARGV[3]) then
  return 0
end
-- Right after PTTL: the value's end is never taken for earlier than it is, and hardly for later.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local saw = redis.sha1hex(redis.call('GET', KEYS[1])) .. ' ' .. string.format('%.0f', now + left)
redis.call('HSET', KEYS[2], 'token', ARGV[1], 'given', now, 'saw', saw)
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
