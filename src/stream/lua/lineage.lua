-- Compares what is known to have been given out with the history of this
-- server's data, before anything else is appended or taken over a connection.
--
-- A lineage is the run of sequences that one server has given out: a line
-- "identity after first" in the lineage key, for the sequence that was the last
-- one when it began, and its own first. A promoted replica begins behind a
-- hole, so that no sequence is given out twice whatever it lacks. So does a slot of a cluster that
-- was moved to one: whether it came before the promotion cannot be seen. An identity is
-- "run" or, of a promoted replica, "run:history", of which Redis forgets the
-- history when nobody has followed for an hour.
--
-- KEYS  seq, lineage, lost, stream
-- ARGV  identity of the server, 1 if it was promoted, size of a hole, highest
--       sequence that is known to have been given out, the identity it was
--       given out under or "-", the first sequence of that lineage
-- Answers {first sequence of this server's lineage, the lineage key, first and
-- last sequence that are lost or 0}. What is lost is added to the lost key, so
-- that it is accepted again. DEL comes first because it is allowed at
-- maxmemory and makes what follows pass.
local KEPT, LOOKED_AT = 32, 100
local identity, hole = ARGV[1], tonumber(ARGV[3])
local known, origin, origin_first = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local lines = {}
for line in string.gmatch(redis.call('GET', KEYS[2]) or '', '[^\n]+') do
  local name, after, first = string.match(line, '^(%S+) (%d+) (%d+)$')
  if name then lines[#lines + 1] = {name, tonumber(after), tonumber(first)} end
end
local gate, counted = string.match(redis.call('GET', KEYS[1]) or '0', '^(%a*:?)(%d+)$')
counted = tonumber(counted or '0')

local function write()
  local text = {}
  for i = math.max(1, #lines - KEPT + 1), #lines do
    text[#text + 1] = string.format('%s %.0f %.0f\n', lines[i][1], lines[i][2], lines[i][3])
  end
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[2], table.concat(text))
end

-- Whether a line is of the server that is called this.
local function is_of(line, name)
  return line[1] == name or string.match(line[1], '^[^:]*') == name
end

-- Without a counter, by the end of the stream: the last sequence up to `most` that it had.
local is_counted = redis.call('EXISTS', KEYS[1]) == 1
local function last_up_to(most)
  if is_counted then return nil end
  for _, entry in ipairs(redis.call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', LOOKED_AT)) do
    for i = 1, #entry[2], 2 do
      local sequence = entry[2][i] == 'seq' and string.match(entry[2][i + 1], '^%d+$')
      sequence = sequence and tonumber(sequence)
      if sequence and sequence <= most + 2 * hole then return math.min(sequence, most) end
    end
  end
end

local newest = lines[#lines]
if not newest or not is_of(newest, identity) then
  local first = counted + 1
  if ARGV[2] == '1' and (newest or counted > 0) then
    first = math.max(counted, known) + hole
    redis.call('DEL', KEYS[1])
    redis.call('SET', KEYS[1], gate .. string.format('%.0f', first - 1))
  end
  newest = {identity, counted, first}
  lines[#lines + 1] = newest
  write()
end

-- The last sequence that this history shares with the one that gave out what is known.
local shared = known
if origin == '-' then
  -- A counter that has gone back. One that is gone says nothing of what is there.
  if gate and counted < known then shared = last_up_to(known) or counted end
  for _, line in ipairs(lines) do
    -- Until a sequence is given out behind a hole, the last of it is what is known.
    if line[2] < known and known < line[3] - 1 then shared = line[2] end
  end
else
  -- Lines that were dropped, or lost, tell no more than that sequences went on.
  local forgotten = lines[1][3] > origin_first
  local last = forgotten and math.max(origin_first - 1, lines[1][2]) or origin_first - 1
  -- What it had from others before its own first may be in a hole of this history.
  for _, line in ipairs(lines) do
    if line[2] < last and last < line[3] - 1 then last = line[2] end
  end
  -- The lineage that it belongs to; a run may have had several.
  for i, line in ipairs(lines) do
    if is_of(line, origin) and (forgotten or line[3] <= origin_first) then
      last = lines[i + 1] and lines[i + 1][2] or known
    end
  end
  shared = math.min(known, last)
end
local lost_first, lost_last = 0, 0
if shared < known then
  lost_first, lost_last = shared + 1, known
  note_lost(KEYS[3], string.format('%.0f', lost_first), string.format('%.0f', lost_last))
end
return {string.format('%.0f', newest[3]), redis.call('GET', KEYS[2]) or '',
  string.format('%.0f', lost_first), string.format('%.0f', lost_last)}
