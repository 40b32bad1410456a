-- KEYS 1: the claim's record, a hash
-- ARGV 1: the claim; 2: what the names of leases begin with; 3: TTL of what is left of a lease, ms; 4: TTL of the record, ms
-- Returns how many keys can be claimed again through this run or an earlier one; nil if there is no such claim
-- Source: redis-gateway's own
local record, claim, leases = KEYS[1], ARGV[1], ARGV[2]

-- See claim_pulls for why a write comes first.
if redis.call('PEXPIRE', record, ARGV[4]) == 0 then
  -- A step that comes late must not claim for nobody.
  redis.call('HSET', record, 'state', 'void')
  redis.call('PEXPIRE', record, ARGV[4])
  return nil
end
local state = redis.call('HGET', record, 'state')
if state == 'committed' or state == 'void' then
  return nil
end
if state ~= 'given_back' then
  local given_back = 0
  for _, name in ipairs(redis.call('HKEYS', record)) do
    local lease = redis.call('GET', leases .. name)
    if lease and lease:match(' (.*)$') == claim then
      -- Nobody's, and at its end.
      redis.call('SET', leases .. name, '0', 'PX', ARGV[3])
      given_back = given_back + 1
    end
  end
  redis.call('DEL', record)
  redis.call('HSET', record, 'state', 'given_back', 'given_back', given_back)
  redis.call('PEXPIRE', record, ARGV[4])
end
return tonumber(redis.call('HGET', record, 'given_back'))
