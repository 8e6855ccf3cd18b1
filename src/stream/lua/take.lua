-- Takes new entries for the partition's owner, and for nobody else.
--
-- KEYS  stream, owner
-- ARGV  group, worker, epoch, count
local mirror = redis.call('HMGET', KEYS[2], 'owner', 'epoch')
if mirror[1] ~= ARGV[2] or mirror[2] ~= ARGV[3] then
  return redis.error_reply('FENCED ' .. ARGV[2] .. ' does not own ' .. KEYS[1])
end
return redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[4], 'STREAMS', KEYS[1], '>')
