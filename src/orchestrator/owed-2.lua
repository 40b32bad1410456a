-- Finds claims that nobody has acknowledged: those whose lease has ended, and those of some clients. Forgets those that nobody has
-- taken for a day.
--
-- KEYS 1: claims, 2: the values of claims
-- ARGV 1: number of prefixes, then the prefixes, then the clients
-- Returns at most 100 keys under one of the prefixes, each with the client that alone may take it ('': any), in turn
-- Source: ours
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local prefixes = tonumber(ARGV[1])
local clients = {}
for n = prefixes + 2, #ARGV do
  clients[ARGV[n]] = true
end
local owed = {}
local claims = redis.call('HGETALL', KEYS[1])
for n = 1, #claims, 2 do
  local key = claims[n]
  local ends, client = string.match(claims[n + 1], '^(%d+) %x+ (.*)$')
  ends = tonumber(ends)
  if ends + 86400000 < now then
    redis.call('HDEL', KEYS[1], key)
    redis.call('HDEL', KEYS[2], key)
  elseif #owed < 200 and (ends <= now or clients[client]) then
    for prefix = 2, prefixes + 1 do
      if string.sub(key, 1, #ARGV[prefix]) == ARGV[prefix] then
        owed[#owed + 1] = key
        owed[#owed + 1] = ends <= now and '' or client
        break
      end
    end
  end
end
return owed
