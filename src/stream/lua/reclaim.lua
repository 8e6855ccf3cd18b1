-- Claims a page of what was delivered to anyone and not acknowledged, in
-- stream order.
--
-- KEYS  stream, owner, seq
-- ARGV  group, worker, epoch, count, start (an id, or "(" and an id)
-- Answers {pending as XPENDING lists it before the claim, entries, the counter of
-- sequences}. An id without its entry was deleted from the stream while it was
-- pending.
local mirror = redis.call('HMGET', KEYS[2], 'owner', 'epoch')
if mirror[1] ~= ARGV[2] or mirror[2] ~= ARGV[3] then
  return redis.error_reply('FENCED ' .. ARGV[2] .. ' does not own ' .. KEYS[1])
end
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[5], '+', ARGV[4])
local ids = {}
for index, delivery in ipairs(pending) do
  ids[index] = delivery[1]
end
-- Lua passes some thousands of arguments at most.
local entries, step = {}, 1000
for first = 1, #ids, step do
  local part = {unpack(ids, first, math.min(first + step - 1, #ids))}
  for _, entry in ipairs(redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(part))) do
    entries[#entries + 1] = entry
  end
end
return {pending, entries, redis.call('GET', KEYS[3])}
