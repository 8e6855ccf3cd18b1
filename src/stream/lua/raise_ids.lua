-- Lets a stream give out only ids above one that the ledger knows. Without it, a server
-- that took over with a clock behind that of the one before would give out lower ones.
--
-- KEYS  stream
-- ARGV  the id
-- PERSIST comes first because it is allowed at maxmemory and makes XSETID pass. What
-- XSETID is not told, the number of entries added and the highest id that was deleted,
-- stays as it is.
local function parts(id)
  local milliseconds, number = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(milliseconds), tonumber(number)
end
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local info, last = redis.call('XINFO', 'STREAM', KEYS[1]), nil
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
end
local last_ms, last_number = parts(last)
local ms, number = parts(ARGV[1])
if last_ms > ms or (last_ms == ms and last_number >= number) then return 0 end
redis.call('PERSIST', KEYS[1])
redis.call('XSETID', KEYS[1], ARGV[1])
return 1
