-- Appends one payment to its partition's stream, once.
--
-- KEYS  stream, seq, ref of the payment's reference, lost, backlog
-- ARGV  backlog limit, dedupe window in ms, status, digest, entry version,
--       payment, received at in ms, highest sequence that the caller knows to
--       have been given out, group, [traceparent]
-- Answers "appended|duplicate|conflict sequence stream-id", or the errors
-- BACKPRESSURE, NOSTREAM, and CLOSED with what seq holds in place of a number
-- while the partition takes nothing new. A counter that has gone back is made
-- such. The ref key holds one line for each status
-- that the reference was sent with: "status digest sequence stream-id".
local function is_lost(sequence)
  for first, last in string.gmatch(redis.call('GET', KEYS[4]) or '', '(%d+) (%d+)\n') do
    if tonumber(first) <= sequence and sequence <= tonumber(last) then return true end
  end
  return false
end
-- Whether a stream of at least `limit` entries has room for one more: the limit
-- is of entries that the group has not settled. They are counted on every
-- 1,000th append; in between, each append counts as unsettled. Settled entries
-- that retention or another group keeps have a limit too.
local function has_room(length, limit)
  if length >= 8 * limit then return false end
  local head = tonumber(redis.call('GET', KEYS[2]))
  -- A closed partition is refused below.
  if not head then return true end
  local counted, at = string.match(redis.call('GET', KEYS[5]) or '', '^(%d+) (%d+)$')
  local since = counted and head - tonumber(at)
  if since and since >= 0 and since < 1000 and counted + since < limit then return true end
  local unsettled = length
  for _, reply in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local group = {}
    for i = 1, #reply, 2 do group[reply[i]] = reply[i + 1] end
    if group['name'] == ARGV[9] then
      unsettled = group['pending'] + entries_after(KEYS[1], group['last-delivered-id'])
    end
  end
  if unsettled >= limit then return false end
  redis.call('SET', KEYS[5], string.format('%d %d', unsettled, head))
  return true
end
local seen = redis.call('GET', KEYS[3])
if seen then
  for status, digest, sequence, id in string.gmatch(seen, '(%S+) (%S+) (%S+) (%S+)\n') do
    if status == ARGV[3] and is_lost(tonumber(sequence)) then
      seen = string.gsub(seen, status .. ' [^\n]*\n', '')
    elseif status == ARGV[3] then
      return (digest == ARGV[4] and 'duplicate ' or 'conflict ') .. sequence .. ' ' .. id
    end
  end
end
local length, limit = redis.call('XLEN', KEYS[1]), tonumber(ARGV[1])
if length >= limit and not has_room(length, limit) then
  return redis.error_reply('BACKPRESSURE ' .. KEYS[1] .. ' is full')
end
if length == 0 and redis.call('EXISTS', KEYS[1]) == 0 then
  local gate = redis.call('GET', KEYS[2])
  if gate and not tonumber(gate) then return redis.error_reply('CLOSED ' .. gate) end
  return redis.error_reply('NOSTREAM ' .. KEYS[1] .. ' is missing')
end
local sequence = redis.pcall('INCR', KEYS[2])
if type(sequence) == 'table' then
  local gate = redis.call('GET', KEYS[2])
  if gate and not tonumber(gate) then return redis.error_reply('CLOSED ' .. gate) end
  return sequence
end
if sequence <= tonumber(ARGV[8]) then
  local gate = 'lost:' .. ARGV[8]
  redis.call('SET', KEYS[2], gate)
  return redis.error_reply('CLOSED ' .. gate)
end
local id
if ARGV[10] then
  id = redis.call('XADD', KEYS[1], '*', 'v', ARGV[5], 'seq', sequence, 'payment', ARGV[6],
    'received_at', ARGV[7], 'traceparent', ARGV[10])
else
  id = redis.call('XADD', KEYS[1], '*', 'v', ARGV[5], 'seq', sequence, 'payment', ARGV[6],
    'received_at', ARGV[7])
end
local line = ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. sequence .. ' ' .. id .. '\n'
redis.call('SET', KEYS[3], (seen or '') .. line, 'PX', ARGV[2])
return 'appended ' .. sequence .. ' ' .. id
