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
-- Answers the count, and the first of these ids. The count is 0 only when there
-- is no entry after `id`, and never more than the stream holds.
local function entries_after(stream, id)
  local following = redis.call('XRANGE', stream, '(' .. id, '+', 'COUNT', 1)[1]
  if not following then return 0 end
  local length = redis.call('XLEN', stream)
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  local count = span(following, last)
  if not count or count > length then
    -- Sequences jump after a loss: count what comes before instead.
    local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    local previous = redis.call('XREVRANGE', stream, id, '-', 'COUNT', 1)[1]
    local before = previous and (span(first, previous) or 1) or 0
    count = math.max(1, length - before)
  end
  return count, following[1]
end
