-- Stores what the holder of a lease has loaded, and ends the lease: unless a value stands there, or, with a lease to refresh one,
-- unless that value is no longer the one that was seen.
--
-- KEYS 1: the value, 2: the lease, 3: how long the value takes to load
-- ARGV 1: the token, 2: the value, 3: seconds to live (0: without end), 4: the channel of those who wait
-- Returns a state (0: it is stored, 1: a value stands there, 2: the key was deleted since, 3: the lease is over), and 1 if the lease
--   stood and was to refresh
-- Source: ours; the reference's SET NX
local lease = redis.call('HMGET', KEYS[2], 'token', 'wanted', 'voided', 'given', 'saw')
if lease[1] ~= ARGV[1] then
  return {lease[3] == ARGV[1] and 2 or 3, 0}
end
local given = tonumber(lease[4] or '')
local saw, ends = string.match(lease[5] or '', '^(%x+) (%d+)$')
local now, left
if given or saw then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  left = redis.call('PTTL', KEYS[1])
end
local state, set = 0, {'SET', KEYS[1], ARGV[2], 'NX'}
if saw then
  -- Of another type is another value.
  local value = redis.pcall('GET', KEYS[1])
  if not value then
    -- Before its time it goes only if somebody deletes it, or Redis for want of memory.
    state = now < tonumber(ends) and 2 or 0
  elseif type(value) == 'string' and redis.sha1hex(value) == saw and math.abs(now + left - ends) < 10 then
    -- The same bytes to the same end: not what was deleted meanwhile and set again. TIME and PTTL are not one look at the clock.
    set[4] = 'XX'
  else
    state = 1
  end
end
if state == 0 then
  if ARGV[3] ~= '0' then
    set[5], set[6] = 'EX', ARGV[3]
  end
  if not redis.call(unpack(set)) then
    state = 1
  elseif given and ARGV[3] ~= '0' then
    redis.call('SET', KEYS[3], math.max(now - given, 0), 'EX', ARGV[3])
  end
end
redis.call('DEL', KEYS[2])
if lease[2] then
  -- Only a wake-up: whether or not the gateway's user may publish, the value stands.
  redis.pcall('PUBLISH', ARGV[4], KEYS[1])
end
return {state, saw and 1 or 0}
