-- KEYS 1: the list
-- ARGV 1: index of the first entry wanted, negative from the end; 2: most entries; 3: most bytes of entries, except that one
--   entry is given whatever its size
-- Returns {length, entries}: what LLEN and LRANGE would, in one atomic step
-- Source: redis-gateway's own
local length = redis.call('LLEN', KEYS[1])
local at = tonumber(ARGV[1])
if at < 0 then
  at = math.max(length + at, 0)
end
local wanted = math.min(tonumber(ARGV[2]), length - at)
local room = tonumber(ARGV[3])
local entries = {}
-- Doubling, so that large entries are not read by the thousand only to be left out.
local step = 16
while #entries < wanted do
  local some = redis.call('LRANGE', KEYS[1], at, at + math.min(step, wanted - #entries) - 1)
  for _, entry in ipairs(some) do
    room = room - #entry
    if room < 0 and #entries > 0 then
      return {length, entries}
    end
    entries[#entries + 1] = entry
  end
  at = at + #some
  step = step * 2
end
return {length, entries}
