-- Deletes values, and voids the leases that were given for them.
--
-- KEYS 1: a value, 2: its lease, and so on in turn
-- ARGV 1: the channel of those who wait
-- Returns how many of the values were there
-- Source: ours; the reference's DEL
local deleted = 0
for n, key in ipairs(KEYS) do
  if n % 2 == 1 then
    -- First: what only frees memory runs in a server that has none left, and what comes after it too.
    deleted = deleted + redis.call('DEL', key)
  else
    local lease = redis.call('HMGET', key, 'token', 'wanted')
    if lease[1] then
      -- In this order, so that the lease is never empty, and keeps its TTL.
      redis.call('HSET', key, 'voided', lease[1])
      redis.call('HDEL', key, 'token', 'wanted')
      if lease[2] then
        -- Only a wake-up, as in fill-3.
        redis.pcall('PUBLISH', ARGV[1], KEYS[n - 1])
      end
    end
  end
end
return deleted
