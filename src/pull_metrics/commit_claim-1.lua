-- KEYS 1: the claim's record, a hash
-- ARGV 1: the claim; 2: what the names of leases begin with; 3: TTL of the record, ms
-- Returns {how many keys were deleted, {names of keys that the claim had lost}}, by this run or an earlier one; nil if there is
--   no such claim
-- Source: redis-gateway's own
local record, claim, leases = KEYS[1], ARGV[1], ARGV[2]

-- Who holds a key: nobody if it was given back, or if its lease is long gone.
local function holder(name)
  local lease = redis.call('GET', leases .. name)
  return lease and lease:match(' (.*)$')
end

local state = redis.call('HGET', record, 'state')
if state == 'sealed' then
  -- See claim_pulls for why a write comes first. The state changes last: who is denied halfway can commit again.
  redis.call('PEXPIRE', record, ARGV[3])
  local deleted, lost = 0, {}
  for _, name in ipairs(redis.call('HKEYS', record)) do
    if name == 'state' then
      -- No key.
    elseif (holder(name) or claim) ~= claim then
      lost[#lost + 1] = name
    else
      redis.call('DEL', leases .. name)
      if redis.call('DEL', name) == 1 then
        deleted = deleted + 1
      else
        lost[#lost + 1] = name
      end
    end
  end
  redis.call('DEL', record)
  redis.call('HSET', record, 'state', 'committed', 'deleted', deleted)
  for _, name in ipairs(lost) do
    redis.call('HSET', record, name, 'lost')
  end
  redis.call('PEXPIRE', record, ARGV[3])
elseif state ~= 'committed' then
  return nil
end

local lost = {}
for _, field in ipairs(redis.call('HKEYS', record)) do
  if field ~= 'state' and field ~= 'deleted' then
    lost[#lost + 1] = field
  end
end
return {tonumber(redis.call('HGET', record, 'deleted')), lost}
