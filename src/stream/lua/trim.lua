-- Removes what every group has settled, and nothing else.
--
-- KEYS  stream
-- ARGV  id before which entries may go at most, the groups that must exist
local function before(a, b)
  local am, as = string.match(a, '(%d+)-(%d+)')
  local bm, bs = string.match(b, '(%d+)-(%d+)')
  am, as, bm, bs = tonumber(am), tonumber(as), tonumber(bm), tonumber(bs)
  if am ~= bm then return am < bm end
  return as < bs
end
local seen, floor = {}, ARGV[1]
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local fields = {}
  for i = 1, #group, 2 do fields[group[i]] = group[i + 1] end
  seen[fields['name']] = true
  local id = fields['last-delivered-id']
  local pending = redis.call('XPENDING', KEYS[1], fields['name'])
  if pending[1] > 0 then id = pending[2] end
  if before(id, floor) then floor = id end
end
for i = 2, #ARGV do
  if not seen[ARGV[i]] then
    return redis.error_reply('TRIMGUARD group ' .. ARGV[i] .. ' is missing on ' .. KEYS[1])
  end
end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', floor)
