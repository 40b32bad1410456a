-- KEYS 1: the hash of a tag at a digest, or of a manifest
-- ARGV 1: repository id; 2: tag, empty for a manifest; 3: digest; 4: timestamp of the last pull, seconds since 1970;
--   5: method, `tag` or `digest`; 6: how many pulls
-- Returns the new count, as text: leaves what so many runs of track_tag_pull or track_manifest_pull would
-- Source: redis-gateway's own
if redis.call('EXISTS', KEYS[1]) == 0 then
  -- In the order in which each of the two writes them.
  if ARGV[2] ~= '' then
    redis.call('HSET', KEYS[1], 'repository_id', ARGV[1], 'tag_name', ARGV[2], 'manifest_digest', ARGV[3],
      'pull_count', ARGV[6], 'last_pull_timestamp', ARGV[4], 'pull_method', ARGV[5])
  else
    redis.call('HSET', KEYS[1], 'repository_id', ARGV[1], 'manifest_digest', ARGV[3],
      'pull_count', ARGV[6], 'last_pull_timestamp', ARGV[4], 'pull_method', ARGV[5], 'tag_name', '')
  end
  return ARGV[6]
end
-- See track_tag_pull for the order.
redis.call('HSET', KEYS[1], 'last_pull_timestamp', ARGV[4])
return string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'pull_count', ARGV[6]))
