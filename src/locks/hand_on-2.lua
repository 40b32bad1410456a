-- Gives back a wake-up that was taken for nobody: if the lock is free, one of the others who wait is woken as by a release.
--
-- KEYS 1: the lock, 2: its signal
-- ARGV 1: milliseconds that the signal lives
-- Returns 1 if it was given back, 0 if somebody holds the lock, whose release will wake
-- Source: ours
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('DEL', KEYS[2])
redis.call('LPUSH', KEYS[2], 1)
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 1
