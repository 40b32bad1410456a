-- KEYS 1: the hash of a tag at a digest
-- ARGV 1: repository id; 2: tag; 3: digest; 4: timestamp, seconds since 1970; 5: method, `tag`
-- Returns the new count, as text
-- Source: redis-gateway's own, to the behaviour of the reference
local function given(text)
  return text and text ~= ''
end

if not (given(ARGV[1]) and given(ARGV[2]) and given(ARGV[3])) then
  return redis.error_reply('Invalid input: missing required fields')
end
local seconds = tonumber(ARGV[4])
if not (seconds and seconds > 0) then
  return redis.error_reply('Invalid input: timestamp must be positive number')
end

if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'repository_id', ARGV[1], 'tag_name', ARGV[2], 'manifest_digest', ARGV[3],
    'pull_count', 1, 'last_pull_timestamp', ARGV[4], 'pull_method', ARGV[5])
  return '1'
end
-- The count last: a user who may not run one of these must not be told of a refusal when the pull is counted.
redis.call('HSET', KEYS[1], 'last_pull_timestamp', ARGV[4])
return string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'pull_count', 1))
