-- KEYS 1: the claim's record, a hash
-- ARGV 1: the claim; 2: what the names of leases begin with; 3: its lease, ms; 4: age from which a claimed key without a lease is
--   an orphan, and that a lease's key has left at its end, ms; 5: TTL of the record, ms; 6: most keys of the claim;
--   7: 8 hexadecimal digits; 8 and on: names of keys
-- Returns how many keys the claim has now, of these and of earlier runs
-- Source: redis-gateway's own
local record, claim, leases = KEYS[1], ARGV[1], ARGV[2]
local lease, orphan_age = tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A run that comes late must not add to a claim that was handed out: its commit would delete what its claimer never saw.
if redis.call('HEXISTS', record, 'state') == 1 then
  return 0
end

-- Whether nobody is at work on a claimed key.
local function abandoned(name, claimed_at)
  local held = redis.call('GET', leases .. name)
  if held then
    return tonumber(held:match('^%d+')) <= now
  end
  return now - claimed_at >= orphan_age
end

-- Redis without memory lets a script go on that has begun to write, as with this; and a flush is what frees memory.
redis.call('PEXPIRE', record, ARGV[5])
local room = tonumber(ARGV[6]) - redis.call('HLEN', record)
for n = 8, #ARGV do
  if room == 0 then
    break
  end
  local name = ARGV[n]
  if redis.call('TYPE', name).ok == 'hash' then
    local claimed_at = tonumber(name:match(':processing:(%d+):%x%x%x%x%x%x%x%x$'))
    local taken
    if claimed_at then
      taken = abandoned(name, claimed_at)
    else
      name = name .. ':processing:' .. now .. ':' .. ARGV[7]
      taken = redis.call('RENAMENX', ARGV[n], name) == 1
    end
    if taken then
      redis.call('SET', leases .. name, (now + lease) .. ' ' .. claim, 'PX', lease + orphan_age)
      room = room - redis.call('HSETNX', record, name, claimed_at and 1 or 0)
    end
  end
end
redis.call('PEXPIRE', record, ARGV[5])
return redis.call('HLEN', record)
