-- KEYS 1: the claim's record, a hash
-- ARGV 1: the claim; 2: what the names of leases begin with; 3: its lease from now on, ms; 4: what a lease's key has left at its
--   end, ms; 5: TTL of the record, ms
-- Returns {how many keys the claim holds, {names of keys that it has lost}}; nil if there is no such claim, or it has ended
-- Source: redis-gateway's own
local record, claim, leases = KEYS[1], ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends, ttl = (now + ARGV[3]) .. ' ' .. claim, ARGV[3] + ARGV[4]

-- Who holds a key: nobody if it was given back, or if its lease is long gone.
local function holder(name)
  local lease = redis.call('GET', leases .. name)
  return lease and lease:match(' (.*)$')
end

if redis.call('HGET', record, 'state') ~= 'sealed' then
  return nil
end
-- See claim_pulls for why a write comes first.
redis.call('PEXPIRE', record, ARGV[5])
local held, lost = 0, {}
for _, name in ipairs(redis.call('HKEYS', record)) do
  if name ~= 'state' then
    if (holder(name) or claim) == claim and redis.call('EXISTS', name) == 1 then
      redis.call('SET', leases .. name, ends, 'PX', ttl)
      held = held + 1
    else
      lost[#lost + 1] = name
    end
  end
end
return {held, lost}
