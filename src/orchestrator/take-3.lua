-- Takes over a claim that nobody has acknowledged, if its lease has ended or it is the client's own. Forgets it if its key has been
-- set or deleted meanwhile.
--
-- KEYS 1: the key, 2: claims, 3: the values of claims
-- ARGV 1: the claim's new id, 2: the client, 3: milliseconds of its lease
-- Returns the value (nil: there is nothing to take over)
-- Source: ours
local claim = redis.call('HGET', KEYS[2], KEYS[1])
if not claim then
  return nil
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local ends, client = string.match(claim, '^(%d+) %x+ (.*)$')
if tonumber(ends) > now and client ~= ARGV[2] then
  return nil
end
local value = redis.call('HGET', KEYS[3], KEYS[1])
local left = redis.call('PTTL', KEYS[1])
-- One with a value is gone since it was claimed, an empty one stays for its day.
local stands = (value == '' and left > 0 and left <= 86400000) or (value and value ~= '' and left == -2)
if not stands then
  redis.call('HDEL', KEYS[2], KEYS[1])
  redis.call('HDEL', KEYS[3], KEYS[1])
  return nil
end
redis.call('HSET', KEYS[2], KEYS[1], string.format('%.0f', now + tonumber(ARGV[3])) .. ' ' .. ARGV[1] .. ' ' .. ARGV[2])
return value
