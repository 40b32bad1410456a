-- Gives a lock that a holder holds its time to live again.
--
-- KEYS 1: the lock, 2: the record of its holder
-- ARGV 1: the holder, 2: seconds to live, 3: the session ('': any)
-- Returns 1 if it lives on, 0 if nobody holds it, -1 if somebody else does, -2 if it has no time to live, -3 if another session of
--   the holder has taken it up
-- Source: ours; python-redis-lock's extend, and the record
local holder = redis.call('GET', KEYS[1])
if not holder then
  return 0
end
if holder ~= ARGV[1] then
  return -1
end
if redis.call('TTL', KEYS[1]) < 0 then
  return -2
end
if ARGV[3] ~= '' then
  local session, recorded = string.match(redis.call('GET', KEYS[2]) or '', '^%d+ %d+ (%x+) (.*)$')
  if recorded == holder and session ~= ARGV[3] then
    return -3
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
