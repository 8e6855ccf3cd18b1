-- Takes new entries for the partition's owner, and for nobody else.
--
-- KEYS  stream, owner, seq
-- ARGV  group, worker, epoch, count
-- Answers {what XREADGROUP does, the counter of sequences}.
local mirror = redis.call('HMGET', KEYS[2], 'owner', 'epoch')
if mirror[1] ~= ARGV[2] or mirror[2] ~= ARGV[3] then
  return redis.error_reply('FENCED ' .. ARGV[2] .. ' does not own ' .. KEYS[1])
end
local taken =
  redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[4], 'STREAMS', KEYS[1], '>')
return {taken, redis.call('GET', KEYS[3])}
