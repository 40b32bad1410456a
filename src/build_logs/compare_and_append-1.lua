-- KEYS 1: the list
-- ARGV 1: the length that it must have; 2: its TTL in seconds; 3: 1 to set the TTL after the entries, 0 before;
--   4 and on: the entries
-- Returns {1, index after the entries} if they stand there, through this run or an earlier one; else {0, length}
-- Source: redis-gateway's own
local key = KEYS[1]
local expected = tonumber(ARGV[1])
local after = expected + #ARGV - 3
local length = redis.call('LLEN', key)

-- Within what unpack can take, and what LRANGE should give at once.
local STEP = 1000

if length == expected then
  if ARGV[3] == '0' then
    redis.call('EXPIRE', key, ARGV[2])
  end
  for first = 4, #ARGV, STEP do
    redis.call('RPUSH', key, unpack(ARGV, first, math.min(first + STEP - 1, #ARGV)))
  end
  if ARGV[3] == '1' then
    redis.call('EXPIRE', key, ARGV[2])
  end
  return {1, after}
end

if length < after then
  return {0, length}
end
for first = 4, #ARGV, STEP do
  local at = expected + first - 4
  local there = redis.call('LRANGE', key, at, at + math.min(STEP, #ARGV - first + 1) - 1)
  for n, entry in ipairs(there) do
    if entry ~= ARGV[first + n - 1] then
      return {0, length}
    end
  end
end
return {1, after}
