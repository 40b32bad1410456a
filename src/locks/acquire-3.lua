-- Acquires a lock for a holder, unless somebody else holds it. A holder that holds it already gets the same answer again, and no
-- session may give the lock up then: not the one before, whose caller may be gone, nor this one, which has got nothing.
--
-- KEYS 1: the lock, 2: the record of its holder, 3: the last token
-- ARGV 1: the holder, 2: seconds to live (0: without end), 3: the session
-- Returns a state (0: somebody else holds it, 1: this session has it, 2: the holder had it before), the token, the milliseconds
--   left (-1: without end)
-- Source: ours; python-redis-lock's GET and SET, in one step with the token and the record
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return {0, '0', redis.call('PTTL', KEYS[1])}
end
if holder then
  local record = redis.call('GET', KEYS[2]) or ''
  local token, at, session, recorded = string.match(record, '^(%d+) (%d+) (%x+) (.*)$')
  local state = 2
  if recorded ~= holder then
    token = '0'
  elseif session == ARGV[3] then
    state = 1
  else
    redis.call('SET', KEYS[2], token .. ' ' .. at .. ' 0 ' .. holder, 'KEEPTTL')
  end
  return {state, token, redis.call('PTTL', KEYS[1])}
end
local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = tonumber(redis.call('GET', KEYS[3]) or 0) or 0
-- As text of all digits: Lua would write a number of this size as 1.79e+15.
local token = string.format('%.0f', math.max(last + 1, micros))
local record = token .. ' ' .. string.format('%.0f', math.floor(micros / 1000)) .. ' ' .. ARGV[3] .. ' ' .. ARGV[1]
redis.call('SET', KEYS[3], token)
-- The lock last: what fails before it leaves nobody holding it.
if ARGV[2] == '0' then
  redis.call('SET', KEYS[2], record)
  redis.call('SET', KEYS[1], ARGV[1], 'NX')
else
  redis.call('SET', KEYS[2], record, 'EX', ARGV[2])
  redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2])
end
return {1, token, redis.call('PTTL', KEYS[1])}
