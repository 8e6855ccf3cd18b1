-- Counts the entries of a stream after an id, from the sequences that our own
-- entries carry. Prepended to the scripts that count.
--
-- XINFO GROUPS has `lag` and `entries-read`, but Redis before 7.4 does not
-- replicate them with XREADGROUP: after a restart, and on a promoted replica,
-- both stay wrong for ever (redis/redis#12898).
local function sequence_of(entry)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'seq' then return tonumber(entry[2][i + 1]) end
  end
end
-- Entries from one to another, if both have a sequence and none is missing.
local function span(first, last)
  local from, to = sequence_of(first), sequence_of(last)
  return from and to and to >= from and to - from + 1
end
-- Counts the entries from one to another. Where sequences jump, and so say more
-- than the stream's length, what lies on either side of the middle is counted, up
-- to a thousand times; what is left then counts as if it were all of the stream.
local splits = 0
local function entries_between(stream, length, first, last)
  local count = span(first, last)
  if count and count <= length then return count end
  local from, to = tonumber(string.match(first[1], '%d+')), tonumber(string.match(last[1], '%d+'))
  if from >= to then return #redis.call('XRANGE', stream, first[1], last[1]) end
  local middle = string.format('%.0f-0', math.floor((from + to + 1) / 2))
  local before = redis.call('XREVRANGE', stream, '(' .. middle, first[1], 'COUNT', 1)[1]
  local behind = redis.call('XRANGE', stream, middle, last[1], 'COUNT', 1)[1]
  splits = splits + 1
  if splits > 1000 or not before or not behind then return length end
  return entries_between(stream, length, first, before)
    + entries_between(stream, length, behind, last)
end
-- Answers the count, and the first of these ids. The count is 0 only when there
-- is no entry after `id`, and never more than the stream holds.
local function entries_after(stream, id)
  local following = redis.call('XRANGE', stream, '(' .. id, '+', 'COUNT', 1)[1]
  if not following then return 0 end
  local length = redis.call('XLEN', stream)
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return math.min(length, entries_between(stream, length, following, last)), following[1]
end
