-- KEYS 1: the mark of the revocation; 2: the mark of the modification
-- ARGV: none
-- Returns 1 if both are there and the modification is the later one, else 0; the error NOTIME if one that is there is no time
-- Source: the reference's two GETs, in one atomic step
local times = { redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2]) }
for n, text in ipairs(times) do
  if text then
    -- tonumber alone takes hexadecimal digits and "nan", which is neither before nor after anything.
    local time = not text:find('[^%d.eE+-]') and tonumber(text)
    if not time then
      return redis.error_reply('NOTIME a mark is no time')
    end
    times[n] = time
  end
end
local revoked, modified = times[1], times[2]
if revoked and modified and modified > revoked then
  return 1
end
return 0
