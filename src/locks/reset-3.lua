-- Releases a lock whoever holds it, and wakes a waiter.
--
-- KEYS 1: the lock, 2: its signal, 3: the record of its holder
-- ARGV 1: milliseconds that the signal lives
-- Returns 1 if somebody held it, 0 if not
-- Source: ours; python-redis-lock's reset, and the record
redis.call('DEL', KEYS[2])
redis.call('LPUSH', KEYS[2], 1)
redis.call('PEXPIRE', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3])
return redis.call('DEL', KEYS[1])
