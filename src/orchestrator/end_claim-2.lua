-- Ends a claim: acknowledged, it is forgotten; given back, it is whoever's comes next. Touches nothing if it has gone to another.
--
-- KEYS 1: claims, 2: the values of claims
-- ARGV 1: the key, 2: the claim's id, 3: 1 if it is acknowledged
-- Returns 1 if it was the claim's, 0 if not
-- Source: ours
local id = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^%d+ (%x+) ')
if id ~= ARGV[2] then
  return 0
end
if ARGV[3] == '1' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now) .. ' ' .. id .. ' ')
end
return 1
