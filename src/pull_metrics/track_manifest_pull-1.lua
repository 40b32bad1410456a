-- KEYS 1: the hash of a manifest
-- ARGV 1: repository id; 2: digest; 3: timestamp, seconds since 1970; 4: method, `digest`
-- Returns the new count, as text
-- Source: redis-gateway's own, to the behaviour of the reference
local function given(text)
  return text and text ~= ''
end

if not (given(ARGV[1]) and given(ARGV[2])) then
  return redis.error_reply('Invalid input: missing required fields')
end
local seconds = tonumber(ARGV[3])
if not (seconds and seconds > 0) then
  return redis.error_reply('Invalid input: timestamp must be positive number')
end

if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'repository_id', ARGV[1], 'manifest_digest', ARGV[2],
    'pull_count', 1, 'last_pull_timestamp', ARGV[3], 'pull_method', ARGV[4], 'tag_name', '')
  return '1'
end
-- See track_tag_pull for the order.
redis.call('HSET', KEYS[1], 'last_pull_timestamp', ARGV[3])
return string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'pull_count', 1))
