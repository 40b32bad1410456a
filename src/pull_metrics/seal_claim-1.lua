-- KEYS 1: the claim's record, a hash
-- ARGV 1: the claim; 2: what the names of leases begin with; 3: its lease from now on, ms; 4: what a lease's key has left at its
--   end, ms; 5: TTL of the record, ms
-- Returns {name, 1 for an orphan or 0, {the six fields}} for each key of the claim, which gets no more keys
-- Source: redis-gateway's own
local record, claim, leases = KEYS[1], ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends, ttl = (now + ARGV[3]) .. ' ' .. claim, ARGV[3] + ARGV[4]

-- See claim_pulls for why a write comes first.
redis.call('PEXPIRE', record, ARGV[5])
local names = redis.call('HGETALL', record)
if redis.call('HSETNX', record, 'state', 'sealed') == 0 then
  -- It was given back meanwhile.
  return {}
end
redis.call('PEXPIRE', record, ARGV[5])

local keys = {}
for n = 1, #names, 2 do
  local name = names[n]
  local lease = leases .. name
  local held = redis.call('GET', lease)
  local fields = held and held:match(' (.*)$') == claim and redis.call('HMGET', name, 'repository_id', 'tag_name',
    'manifest_digest', 'pull_count', 'last_pull_timestamp', 'pull_method')
  if fields and (fields[1] or redis.call('EXISTS', name) == 1) then
    redis.call('SET', lease, ends, 'PX', ttl)
    keys[#keys + 1] = {name, tonumber(names[n + 1]), fields}
  else
    -- The claim took longer than its lease and lost it, or somebody who knows no leases has deleted it.
    redis.call('HDEL', record, name)
  end
end
return keys
