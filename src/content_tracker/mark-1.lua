-- KEYS 1 and on: the marks
-- ARGV 1: their TTL in seconds
-- Returns the time that all of them hold now
-- Source: what the reference does by TIME, then SET, or a MULTI of SETs for many
local time = redis.call('TIME')
-- As Python writes the sum of seconds and microseconds / 1,000,000. Up to the year 2242 a double tells microseconds apart, so
-- that its shortest form is the sum's own digits.
local text = time[1] .. '.' .. string.format('%06d', time[2]):gsub('(%d)0+$', '%1')
for _, key in ipairs(KEYS) do
  redis.call('SET', key, text, 'EX', ARGV[1])
end
return text
