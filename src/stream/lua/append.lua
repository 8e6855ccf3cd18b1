-- Appends payments of one partition in their order, each once, as one step:
-- all that this call does is in Redis and its file, or nothing of it.
--
-- KEYS  stream, seq, lost, backlog, lineage, shares, refs; for each payment the hash of
--       its reference in each table, the newest first, and while references of an
--       earlier release count, its ref key
-- ARGV  backlog limit, dedupe window in ms, highest sequence that the caller knows
--       to have been given out, group, the lineage that it compared this with,
--       how many unsettled entries one source may have, the limit where none has a
--       share, what refs holds as far as the caller knows, how many tables that are,
--       when the newest ends and its window, if another may be due how far the ends of
--       this partition's tables are shifted in ms, and 1 where the payments have nothing
--       to do with each other; for each payment field, digest, entry version, source or
--       nothing, payment, received at in ms, traceparent or nothing, evidence or nothing
-- Answers for each payment "appended|duplicate|conflict sequence stream-id". One that
-- cannot be taken is answered "refused CODE why" and ends the list, unless they have
-- nothing to do with each other: BACKPRESSURE, SHARE, MEMORY, NOSTREAM, or CLOSED with what seq
-- holds in place of a number while the partition takes nothing new. A counter that has
-- gone back, or is gone with its stream, is made such. The error LINEAGE says that another
-- lineage has begun: nothing was done, and what is known must be compared again. The only
-- answer "tables" and what refs holds says that the tables are others: nothing was done.
local FIRST, HEAD, EACH = 7, 12, 8
local FIELDS = { 'source', 'payment', 'received_at', 'traceparent', 'evidence' }
-- References in a hash as a rule; in a table that is full, for each of its hashes; most
-- tables, and how many times the hashes of the one before a table has. Above 128 entries
-- Redis keeps a hash at twice the memory.
local FILL, FULL, TABLES_MAX, GROWTH_MAX = 40, 72, 12, 16
local stream, seq, refs = KEYS[1], KEYS[2], KEYS[7]
local limit, window, given_out = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local share, known_tables, tables = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
local table_end, its_window = tonumber(ARGV[9]), tonumber(ARGV[10])
local payments = (#ARGV - HEAD) / EACH
local keys_of_each = (#KEYS - FIRST) / payments
-- Below this many entries nobody can be refused.
local crowded = math.min(limit, share)
-- A source's entries are counted by stretches of this many sequences, so that those
-- that are settled drop out of the count without anybody saying so.
local STRETCH = math.max(1, math.floor(limit / 16))

local lineage, tables_now = unpack(redis.call('MGET', KEYS[5], refs))
if string.sub(lineage or '', -#ARGV[5]) ~= ARGV[5] then
  return redis.error_reply('LINEAGE another server has given out sequences of ' .. stream)
end
if (tables_now or '') ~= known_tables then return { 'tables ' .. (tables_now or '') } end

local function is_lost(sequence)
  for first, last in string.gmatch(redis.call('GET', KEYS[3]) or '', '(%d+) (%d+)\n') do
    if tonumber(first) <= sequence and sequence <= tonumber(last) then return true end
  end
  return false
end

local function answer_of(same, sequence, id)
  return string.format('%s %.0f %s', same and 'duplicate' or 'conflict', sequence, id)
end

-- What an earlier release has remembered: a line "status digest sequence stream-id" for
-- each status, which the last two bits of the field say.
local function look_up_old(ref, field, digest)
  local old = redis.call('GET', ref)
  if not old then return nil end
  local status = ({ 'COMPLETE', 'PENDING', 'FAILED' })[string.byte(field, 16) % 4 + 1]
  local hex = string.gsub(digest, '.', function(byte)
    return string.format('%02x', string.byte(byte))
  end)
  for known, its_digest, sequence, id in string.gmatch(old, '(%S+) (%S+) (%S+) (%S+)\n') do
    if known == status and not is_lost(tonumber(sequence)) then
      return answer_of(string.sub(its_digest, 1, #hex) == hex, sequence, id)
    end
  end
end

-- What the payment was appended as before.
local function look_up(at, field, digest)
  for place = at + 1, at + tables do
    local value = redis.call('HGET', KEYS[place], field)
    if value then
      local its_digest, sequence, id = recalled(value)
      if not is_lost(sequence) then return answer_of(its_digest == digest, sequence, id) end
    end
  end
  return keys_of_each > tables and look_up_old(KEYS[at + keys_of_each], field, digest)
end

-- Remembers a payment in the newest table. A hash is forgotten one window after the table
-- ends, or after the last that came behind the end. Where it was found not to have ended,
-- ids are ahead of the clock.
local is_open = false
local function remember(hash, field, digest, sequence, id)
  local milliseconds, number = string.match(id, '^(%d+)-(%d+)$')
  milliseconds = tonumber(milliseconds)
  redis.call('HSET', hash, field, remembered(digest, sequence, milliseconds, number))
  local last = is_open and table_end or math.max(milliseconds, table_end)
  if last > table_end or redis.call('HLEN', hash) == 1 then
    redis.call('PEXPIREAT', hash, last + its_window)
  end
end

-- Begins another table once the newest one has served for half of the window, or is full;
-- at once where the clock went back, or this caller's window is longer. Answers what refs
-- then holds. Its first part is the window, when the newest began and when it ends, the
-- sequence it began behind, and at which it is full; the others are, for each table, its
-- number, its hashes, and when it is forgotten.
local function next_table(shift)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local began, first, full = string.match(known_tables, '^%d+,(%d+),%d+,(%d+),(%d+);')
  local number, hashes, expected = 0, 1 / GROWTH_MAX, 1
  local width = math.max(1, math.floor(window / 2))
  local new_end = now + width - (now + shift) % width
  local head = tonumber(redis.call('GET', seq) or '') or given_out
  if began then
    began = tonumber(began)
    local is_full = given_out >= tonumber(full) and tables < TABLES_MAX
    if began <= now and now < table_end and window <= its_window and not is_full then
      return nil
    end
    number, hashes = string.match(known_tables, ';(%d+),(%d+)')
    -- As many as came since the newest began, for as long as this one is to serve.
    local rate = math.max(0, head - first) / math.max(1, now - began)
    expected = math.ceil(rate * (new_end - now) / FILL)
  end
  hashes = math.max(1, math.min(expected, hashes * GROWTH_MAX))
  local parts = { string.format('%.0f,%.0f,%.0f,%.0f,%.0f;%.0f,%.0f,%.0f', window, now, new_end,
    head, head + hashes * FULL, number + 1, hashes, new_end + window) }
  for its_number, its_hashes, its_end in string.gmatch(known_tables, ';(%d+),(%d+),(%d+)') do
    its_end = tonumber(its_end)
    if its_number == number then its_end = math.max(its_end, now + its_window) end
    if its_end > now then
      parts[#parts + 1] = string.format('%s,%s,%.0f', its_number, its_hashes, its_end)
    end
  end
  local text = table.concat(parts, ';')
  redis.call('SET', refs, text)
  return text
end

-- The first sequence of the stretch that this one is in.
local function stretch_of(sequence)
  return sequence - sequence % STRETCH
end

-- What counts a source's entries in a stretch.
local function field_of(first, source)
  return string.format('%.0f %s', first, source)
end

-- What is full for this source where so many entries up to the head are unsettled.
local function full_for(source, unsettled, head)
  if unsettled >= limit then return 'BACKPRESSURE' end
  if unsettled < share then return nil end
  local fields, of_source = {}, 0
  for first = stretch_of(math.max(0, head - unsettled + 1)), head, STRETCH do
    fields[#fields + 1] = field_of(first, source)
  end
  for _, count in ipairs(redis.call('HMGET', KEYS[6], unpack(fields))) do
    of_source = of_source + (tonumber(count) or 0)
  end
  return of_source >= share and 'SHARE' or nil
end

-- Counts an entry of this source. Where a stretch begins, those are forgotten that the
-- stream cannot reach back to.
local function count(source, sequence, length)
  local first = stretch_of(sequence)
  if redis.call('HINCRBY', KEYS[6], field_of(first, source), 1) > 1 then return end
  for _, field in ipairs(redis.call('HKEYS', KEYS[6])) do
    local last = tonumber(string.match(field, '^%d+')) + STRETCH - 1
    if last < sequence - length then redis.call('HDEL', KEYS[6], field) end
  end
end

-- What of a crowded stream is full: the limit is of entries that the group has not
-- settled. They are counted on every 1,000th append; in between, each append counts
-- as unsettled. Settled entries that retention or another group keeps have a limit
-- too.
local function full(length, source)
  if length >= 8 * limit then return 'BACKPRESSURE' end
  local head = tonumber(redis.call('GET', seq))
  -- A closed partition is refused below.
  if not head then return nil end
  local counted, at = string.match(redis.call('GET', KEYS[4]) or '', '^(%d+) (%d+) ')
  local since = counted and head - tonumber(at)
  if since and since >= 0 and since < 1000 and not full_for(source, counted + since, head) then
    return nil
  end
  local unsettled = length
  for _, reply in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = {}
    for i = 1, #reply, 2 do group[reply[i]] = reply[i + 1] end
    if group['name'] == ARGV[4] then
      unsettled = group['pending'] + entries_after(stream, group['last-delivered-id'])
    end
  end
  local why = full_for(source, unsettled, head)
  if why then return why end
  -- Trimming goes by the limit, too.
  redis.call('SET', KEYS[4], string.format('%d %.0f %d', unsettled, head, limit))
  return nil
end

-- Closes the partition: all up to here was given out, and some of it is lost.
-- DEL comes first because it is allowed at maxmemory and makes the SET pass.
local function lose()
  local gate = string.format('lost:%.0f', given_out)
  redis.call('DEL', seq)
  redis.call('SET', seq, gate)
  return 'refused CLOSED ' .. gate
end

local function closed()
  local gate = redis.call('GET', seq)
  if not gate or tonumber(gate) then return nil end
  local lost = string.match(gate, '^lost:(%d+)$')
  if lost and tonumber(lost) < given_out then return lose() end
  return 'refused CLOSED ' .. gate
end

-- Why a partition without its stream takes nothing. One that was never created
-- has given nothing out.
local function missing()
  local why = closed()
  if not why and tonumber(redis.call('GET', seq) or '0') < given_out then why = lose() end
  return why or 'refused NOSTREAM ' .. stream .. ' is missing'
end

-- The next sequence, for an entry of this source, or why there is none.
local length
local function next_sequence(source)
  length = length or redis.call('XLEN', stream)
  local why = length >= crowded and full(length, source)
  if why then return nil, 'refused ' .. why .. ' ' .. stream .. ' is full' end
  if length == 0 and redis.call('EXISTS', stream) == 0 then
    return nil, missing()
  end
  local sequence = redis.pcall('INCR', seq)
  if type(sequence) == 'table' then
    local why = closed()
    if not why and string.find(sequence.err, 'OOM', 1, true) then
      why = 'refused MEMORY ' .. stream .. ' has no memory left'
    end
    if not why then error(sequence) end
    return nil, why
  end
  if sequence <= given_out then return nil, lose() end
  if share < limit then count(source, sequence, length) end
  return sequence
end

local function append(at, field, digest, hash, sequence)
  -- Once: Redis and Lua write numbers by way of floating point.
  local digits = string.format('%d', sequence)
  local fields = { 'v', ARGV[at + 3], 'seq', digits }
  for place, name in ipairs(FIELDS) do
    local value = ARGV[at + 3 + place]
    if value ~= '' then
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    end
  end
  local id = redis.call('XADD', stream, '*', unpack(fields))
  remember(hash, field, digest, sequence, id)
  given_out, length = sequence, length + 1
  return 'appended ' .. digits .. ' ' .. id
end

local answers, refused, may_be_due = {}, {}, ARGV[11] ~= ''
for number = 1, payments do
  local at, keys_at = HEAD + (number - 1) * EACH, FIRST + (number - 1) * keys_of_each
  local field, digest, source = ARGV[at + 1], ARGV[at + 2], ARGV[at + 4]
  -- What is full for a source once stays so.
  local answer = look_up(keys_at, field, digest) or refused[source]
  if not answer then
    if may_be_due then
      local others = next_table(tonumber(ARGV[11]))
      if others then return { 'tables ' .. others } end
      may_be_due, is_open = false, true
    end
    local sequence, refusal = next_sequence(source)
    if sequence then
      answer = append(at, field, digest, KEYS[keys_at + 1], sequence)
    elseif ARGV[12] == '1' then
      answer, refused[source] = refusal, refusal
    else
      answers[number] = refusal
      return answers
    end
  end
  answers[number] = answer
end
return answers
