-- Sets our group back to the last entry that the ledger knows, and opens the
-- partition again, which was closed. What is pending after it is handed out
-- again with the rest, in stream order.
--
-- KEYS  stream, owner, seq
-- ARGV  group, worker, epoch, the entry, sequence to go on behind
local mirror = redis.call('HMGET', KEYS[2], 'owner', 'epoch')
if mirror[1] ~= ARGV[2] or mirror[2] ~= ARGV[3] then
  return redis.error_reply('FENCED ' .. ARGV[2] .. ' does not own ' .. KEYS[1])
end
redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[4])
while true do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '(' .. ARGV[4], '+', 1000)
  if #pending == 0 then break end
  for _, delivery in ipairs(pending) do redis.call('XACK', KEYS[1], ARGV[1], delivery[1]) end
end
local gate = string.match(redis.call('GET', KEYS[3]) or '', '^resized?:') or ''
redis.call('SET', KEYS[3], gate .. ARGV[5])
return 1
