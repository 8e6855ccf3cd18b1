-- Opens a partition again that was closed, because its state was lost or the ledger has
-- lost commits: its stream and our group exist from the ledger's cursor on, and sequences
-- go on behind all that were ever given out.
--
-- KEYS  stream, owner, seq, lost, lineage
-- ARGV  group, worker, epoch, the ledger's cursor, "raise" if ids must be raised to
--       it or "back" if the group must be set back to it, so that what is pending after it
--       is handed out again with the rest, in stream order; sequence to go on behind,
--       identity of the server, the last sequence
--       that is kept if any may be lost or nothing, first and last sequence of each
--       range that is lost
-- Where sequences may be lost, another lineage begins, so that gateways compare
-- again what they know to have been given out.
-- PERSIST comes first because it is allowed at maxmemory and makes what follows
-- pass: a full Redis must be drained.
local mirror = redis.call('HMGET', KEYS[2], 'owner', 'epoch')
if mirror[1] ~= ARGV[2] or mirror[2] ~= ARGV[3] then
  return redis.error_reply('FENCED ' .. ARGV[2] .. ' does not own ' .. KEYS[1])
end
redis.call('PERSIST', KEYS[2])
local created = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[4], 'MKSTREAM')
if created.err and not string.find(created.err, 'BUSYGROUP', 1, true) then
  return redis.error_reply(created.err)
end
if ARGV[5] == 'raise' then redis.call('XSETID', KEYS[1], ARGV[4]) end
if ARGV[5] == 'back' then
  redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[4])
  while true do
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '(' .. ARGV[4], '+', 1000)
    if #pending == 0 then break end
    for _, delivery in ipairs(pending) do redis.call('XACK', KEYS[1], ARGV[1], delivery[1]) end
  end
end
for i = 9, #ARGV, 2 do note_lost(KEYS[4], ARGV[i], ARGV[i + 1]) end
if ARGV[8] ~= '' then
  local line = string.format('%s %s %.0f\n', ARGV[7], ARGV[8], tonumber(ARGV[6]) + 1)
  if redis.call('GETRANGE', KEYS[5], -#line, -1) ~= line then
    redis.call('APPEND', KEYS[5], line)
  end
end
local gate = string.match(redis.call('GET', KEYS[3]) or '', '^resized?:') or ''
redis.call('SET', KEYS[3], gate .. ARGV[6])
return 1
