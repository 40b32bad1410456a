-- Ends a gateway's own BLPOP, so that it can be armed with other signals. What is pushed before it is armed ends it too.
--
-- KEYS 1: a list that this gateway alone waits on
-- ARGV 1: milliseconds that it lives
-- Returns 1
-- Source: ours
redis.call('DEL', KEYS[1])
redis.call('LPUSH', KEYS[1], 1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
