-- Closes a partition whose state in Redis is lost, and says what is left of it.
-- Appends are refused from here on, because its counter is not a number.
--
-- KEYS  stream, owner, seq
-- ARGV  worker, epoch, highest sequence that is known to have been given out, how
--       many more may have been
-- Answers {highest sequence that was counted, sequence of the last entry that may have
-- been given it, last id that was given out}. SET follows a DEL because
-- that is allowed at maxmemory and makes it pass.
local LOOKED_AT = 100
local mirror = redis.call('HMGET', KEYS[2], 'owner', 'epoch')
if mirror[1] ~= ARGV[1] or mirror[2] ~= ARGV[2] then
  return redis.error_reply('FENCED ' .. ARGV[1] .. ' does not own ' .. KEYS[1])
end
local gate, counted = string.match(redis.call('GET', KEYS[3]) or '', '^(%a*):?(%d+)$')
counted = counted or '0'
if gate ~= 'resize' and gate ~= 'resized' then
  redis.call('DEL', KEYS[3])
  redis.call('SET', KEYS[3], 'lost:' .. counted)
end
if redis.call('EXISTS', KEYS[1]) == 0 then return {counted, '0', '0-0'} end
local last, most = nil, math.max(tonumber(counted), tonumber(ARGV[3])) + tonumber(ARGV[4])
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', LOOKED_AT)) do
  for i = 1, #entry[2], 2 do
    local sequence = entry[2][i] == 'seq' and string.match(entry[2][i + 1], '^%d+$')
    if sequence and tonumber(sequence) <= most then last = last or sequence end
  end
end
local info, last_id = redis.call('XINFO', 'STREAM', KEYS[1]), '0-0'
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last_id = info[i + 1] end
end
return {counted, last or '0', last_id}
