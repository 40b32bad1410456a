-- Takes a lock up again: the holder's new session renews it, and is the one that may give it up.
--
-- KEYS 1: the lock, 2: the record of its holder
-- ARGV 1: the holder, 2: seconds to live, 3: the session, 4: the token of the acquisition
-- Returns 1 if it is taken up, 0 if nobody holds it, -1 if somebody else does, or the holder by another acquisition
-- Source: ours
local holder = redis.call('GET', KEYS[1])
if not holder then
  return 0
end
local token, at, _, recorded = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) (%d+) (%x+) (.*)$')
if holder ~= ARGV[1] or recorded ~= holder or token ~= ARGV[4] then
  return -1
end
redis.call('SET', KEYS[2], token .. ' ' .. at .. ' ' .. ARGV[3] .. ' ' .. holder, 'EX', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
