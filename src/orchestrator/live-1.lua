-- Reads those of some keys that are strings without a time to live.
--
-- KEYS the keys
-- ARGV none
-- Returns such keys and their values, in turn
-- Source: ours; TTL and GET of the reference, in one step
local live = {}
for _, key in ipairs(KEYS) do
  if redis.call('TTL', key) == -1 then
    local value = redis.pcall('GET', key)
    if type(value) == 'string' then
      live[#live + 1] = key
      live[#live + 1] = value
    end
  end
end
return live
