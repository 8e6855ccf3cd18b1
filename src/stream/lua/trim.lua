-- Removes what every group has acknowledged, and nothing else.
--
-- KEYS  stream, backlog
-- ARGV  how long entries stay, in ms; an id that was the newest that long ago or
--       earlier, or 0-0; the last id that the ledger knows; the groups that
--       must exist
-- Ages are relative to the stream's newest id, and by the given id: no clock is
-- compared with another, and what goes is old by both, so that a clock that goes
-- forward takes nothing away. While ids stand still at one millisecond, because a
-- clock went back or nothing is appended, the given id alone lets entries go.
-- A stream with more than 3 times the backlog's limit keeps the newest of these,
-- however young the rest is: settled entries must not be why payments are refused.
-- Answers how many entries went, the newest id, the groups that must exist and do not (then
-- nothing goes: they could not have acknowledged anything), and the groups that
-- exist and need not (they are waited for all the same).
--
-- The list of groups that must exist may be a moment old. A group registered
-- meanwhile either is on the stream, and is seen here, or is created on what
-- this leaves: then nothing has been promised to it yet.
local function before(a, b)
  local am, as = string.match(a, '(%d+)-(%d+)')
  local bm, bs = string.match(b, '(%d+)-(%d+)')
  am, as, bm, bs = tonumber(am), tonumber(as), tonumber(bm), tonumber(bs)
  if am ~= bm then return am < bm end
  return as < bs
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return redis.error_reply('NOSTREAM stream ' .. KEYS[1] .. ' is missing')
end
local info, newest, length = redis.call('XINFO', 'STREAM', KEYS[1]), nil, 0
local first, last
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then newest = info[i + 1] end
  if info[i] == 'length' then length = info[i + 1] end
  if info[i] == 'first-entry' then first = info[i + 1] and info[i + 1][1] end
  if info[i] == 'last-entry' then last = info[i + 1] and info[i + 1][1] end
end
local newest_ms, aged_ms = string.match(newest, '^%d+'), string.match(ARGV[2], '^%d+')
-- The sequence of the last entry up to an id; 0 where it cannot be read.
local function sequence_up_to(id)
  local entry = redis.call('XREVRANGE', KEYS[1], id, '-', 'COUNT', 1)[1]
  for i = 1, entry and #entry[2] or 0, 2 do
    if entry[2][i] == 'seq' then return tonumber(entry[2][i + 1]) or 0 end
  end
  return 0
end
-- The lowest number from `low` to `high` at which `id_of` reaches a sequence.
local function search(low, high, sequence, id_of)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if sequence_up_to(id_of(middle)) >= sequence then high = middle else low = middle + 1 end
  end
  return low
end
-- About the first of so many newest entries. Sequences say which; where they jump,
-- more is kept, and the next round goes on from there.
local function newest_of(count)
  local from, to = string.match(first, '(%d+)-'), string.match(last, '(%d+)-')
  local sequence = math.min(sequence_up_to(last) + 1, sequence_up_to(first) + length) - count
  local id = function(ms) return string.format('%.0f', ms) end
  local ms = id(search(tonumber(from), tonumber(to), sequence, id))
  local end_of_ms = redis.call('XREVRANGE', KEYS[1], ms, ms, 'COUNT', 1)[1]
  if not end_of_ms then return end
  local number = function(n) return string.format('%s-%.0f', ms, n) end
  return number(search(0, tonumber(string.match(end_of_ms[1], '-(%d+)')), sequence, number))
end
local oldest_to_stay = math.max(0, tonumber(newest_ms) - tonumber(ARGV[1]))
local wanted, seen, missing, unregistered = {}, {}, {}, {}
local floor = string.format('%.0f-0', oldest_to_stay)
if before(ARGV[2], floor) or aged_ms == newest_ms then floor = ARGV[2] end
local limit = tonumber(string.match(redis.call('GET', KEYS[2]) or '', '^%d+ %d+ (%d+)$'))
if limit and length > 3 * limit then
  local young = newest_of(3 * limit)
  if young and before(floor, young) then floor = young end
end
if before(ARGV[3], floor) then floor = ARGV[3] end
for i = 4, #ARGV do wanted[ARGV[i]] = true end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local fields = {}
  for i = 1, #group, 2 do fields[group[i]] = group[i + 1] end
  local name, id = fields['name'], fields['last-delivered-id']
  seen[name] = true
  if not wanted[name] then table.insert(unregistered, name) end
  local pending = redis.call('XPENDING', KEYS[1], name)
  if pending[1] > 0 then id = pending[2] end
  if before(id, floor) then floor = id end
end
for i = 4, #ARGV do
  if not seen[ARGV[i]] then table.insert(missing, ARGV[i]) end
end
local removed = 0
if #missing == 0 then removed = redis.call('XTRIM', KEYS[1], 'MINID', '=', floor) end
return { removed, newest, missing, unregistered }
