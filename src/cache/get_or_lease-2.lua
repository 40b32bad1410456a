-- Reads a value; where there is none, gives the lease to load it, unless somebody else has it.
--
-- KEYS 1: the value, 2: the lease
-- ARGV 1: the token of the lease that is asked for, 2: milliseconds that it lives, 3: 1 if the load is to be timed
-- Returns a state (0: there is a value, 1: the lease is the caller's, 2: it is somebody else's), the value, the milliseconds that
--   are left of the lease
-- Source: ours; the reference's GET
local value = redis.call('GET', KEYS[1])
if value then
  return {0, value, 0}
end
-- A lease without an end would keep all others from loading for ever: it counts for none.
local left = redis.call('PTTL', KEYS[2])
if left > 0 and redis.call('HEXISTS', KEYS[2], 'token') == 1 then
  redis.call('HSETNX', KEYS[2], 'wanted', 1)
  return {2, '', left}
end
local given = ''
if ARGV[3] == '1' then
  local time = redis.call('TIME')
  given = time[1] * 1000 + math.floor(time[2] / 1000)
end
-- All of them: what is left of a lease that was voided is not this one's.
redis.call('HSET', KEYS[2], 'token', ARGV[1], 'given', given, 'saw', '')
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {1, '', tonumber(ARGV[2])}
