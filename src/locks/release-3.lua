-- Releases a lock that a holder holds, and wakes a waiter. Touches nothing if it does not hold it, or if another session may give
-- it up now.
--
-- KEYS 1: the lock, 2: its signal, 3: the record of its holder
-- ARGV 1: the holder, 2: the session ('': any), 3: milliseconds that the signal lives
-- Returns 1 if it was released, 0 if not
-- Source: ours; python-redis-lock's release, and the record
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if ARGV[2] ~= '' then
  local session, holder = string.match(redis.call('GET', KEYS[3]) or '', '^%d+ %d+ (%x+) (.*)$')
  if holder ~= ARGV[1] or session ~= ARGV[2] then
    return 0
  end
end
redis.call('DEL', KEYS[2])
redis.call('LPUSH', KEYS[2], 1)
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('DEL', KEYS[1])
redis.call('DEL', KEYS[3])
return 1
