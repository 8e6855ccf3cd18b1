-- Appends payments of one partition in their order, each once, as one step:
-- all that this call does is in Redis and its file, or nothing of it.
--
-- KEYS  stream, seq, lost, backlog, lineage, shares, ref of each payment's reference
-- ARGV  backlog limit, dedupe window in ms, highest sequence that the caller knows
--       to have been given out, group, the lineage that it compared this with,
--       how many unsettled entries one source may have, the limit where none has a
--       share; for each payment status, digest, entry version, source or nothing,
--       payment, received at in ms, traceparent or nothing, evidence or nothing
-- Answers for each payment "appended|duplicate|conflict sequence stream-id". The
-- first that cannot be taken is answered "refused CODE why" and ends the list:
-- BACKPRESSURE, SHARE, NOSTREAM, or CLOSED with what seq holds in place of a number
-- while the partition takes nothing new. A counter that has gone back, or is gone
-- with its stream, is made such. The error LINEAGE says that another lineage has
-- begun: nothing was done, and what is known must be compared again. The ref key
-- holds one line for each status that the reference was sent with: "status digest
-- sequence stream-id".
local FIRST, HEAD, EACH = 6, 6, 8
local FIELDS = { 'source', 'payment', 'received_at', 'traceparent', 'evidence' }
local stream, seq = KEYS[1], KEYS[2]
local limit, window, given_out = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local share = tonumber(ARGV[6])
-- Below this many entries nobody can be refused.
local crowded = math.min(limit, share)
-- A source's entries are counted by stretches of this many sequences, so that those
-- that are settled drop out of the count without anybody saying so.
local STRETCH = math.max(1, math.floor(limit / 16))

if redis.call('GETRANGE', KEYS[5], -#ARGV[5], -1) ~= ARGV[5] then
  return redis.error_reply('LINEAGE another server has given out sequences of ' .. stream)
end

local function is_lost(sequence)
  for first, last in string.gmatch(redis.call('GET', KEYS[3]) or '', '(%d+) (%d+)\n') do
    if tonumber(first) <= sequence and sequence <= tonumber(last) then return true end
  end
  return false
end

-- What the payment was appended as before, or what its ref key keeps of others.
local function look_up(ref, status, digest)
  local seen = redis.call('GET', ref)
  if not seen then return nil, '' end
  for known, its_digest, sequence, id in string.gmatch(seen, '(%S+) (%S+) (%S+) (%S+)\n') do
    if known == status then
      if is_lost(tonumber(sequence)) then return nil, (string.gsub(seen, status .. ' [^\n]*\n', '')) end
      return (its_digest == digest and 'duplicate ' or 'conflict ') .. sequence .. ' ' .. id
    end
  end
  return nil, seen
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
local function next_sequence(source)
  local length = redis.call('XLEN', stream)
  local why = length >= crowded and full(length, source)
  if why then return nil, 'refused ' .. why .. ' ' .. stream .. ' is full' end
  if length == 0 and redis.call('EXISTS', stream) == 0 then
    return nil, missing()
  end
  local sequence = redis.pcall('INCR', seq)
  if type(sequence) == 'table' then
    local why = closed()
    if not why then error(sequence) end
    return nil, why
  end
  if sequence <= given_out then return nil, lose() end
  if share < limit then count(source, sequence, length) end
  return sequence
end

local answers = {}
for number = 1, #KEYS - FIRST do
  local at, ref = HEAD + (number - 1) * EACH, KEYS[FIRST + number]
  local status, digest = ARGV[at + 1], ARGV[at + 2]
  local answer, others = look_up(ref, status, digest)
  if not answer then
    local sequence, refusal = next_sequence(ARGV[at + 4])
    if not sequence then
      answers[number] = refusal
      return answers
    end
    local fields = { 'v', ARGV[at + 3], 'seq', sequence }
    for place, name in ipairs(FIELDS) do
      local value = ARGV[at + 3 + place]
      if value ~= '' then
        fields[#fields + 1] = name
        fields[#fields + 1] = value
      end
    end
    local id = redis.call('XADD', stream, '*', unpack(fields))
    redis.call('SET', ref, others .. status .. ' ' .. digest .. ' ' .. sequence .. ' ' .. id .. '\n',
      'PX', window)
    answer = 'appended ' .. sequence .. ' ' .. id
    given_out = sequence
  end
  answers[number] = answer
end
return answers
