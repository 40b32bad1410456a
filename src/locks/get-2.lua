-- Tells who holds a lock.
--
-- KEYS 1: the lock, 2: the record of its holder
-- ARGV none
-- Returns the holder (nil: nobody), the milliseconds left (-1: without end), and the record (nil: none), which may be another
--   holder's
-- Source: ours
return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]), redis.call('GET', KEYS[2])}
