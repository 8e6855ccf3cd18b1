-- Appends one payment to its partition's stream, once.
--
-- KEYS  stream, seq, ref of the payment's reference
-- ARGV  backlog limit, dedupe window in ms, status, digest, entry version,
--       payment, received at in ms, [traceparent]
-- Answers "appended|duplicate|conflict sequence stream-id", or the errors
-- BACKPRESSURE and NOSTREAM. The ref key holds one line for each status
-- that the reference was sent with: "status digest sequence stream-id".
local seen = redis.call('GET', KEYS[3])
if seen then
  for status, digest, sequence, id in string.gmatch(seen, '(%S+) (%S+) (%S+) (%S+)\n') do
    if status == ARGV[3] then
      return (digest == ARGV[4] and 'duplicate ' or 'conflict ') .. sequence .. ' ' .. id
    end
  end
end
local length = redis.call('XLEN', KEYS[1])
if length >= tonumber(ARGV[1]) then
  return redis.error_reply('BACKPRESSURE ' .. KEYS[1] .. ' is full')
end
if length == 0 and redis.call('EXISTS', KEYS[1]) == 0 then
  return redis.error_reply('NOSTREAM ' .. KEYS[1] .. ' is missing')
end
local sequence = redis.call('INCR', KEYS[2])
local id
if ARGV[8] then
  id = redis.call('XADD', KEYS[1], '*', 'v', ARGV[5], 'seq', sequence, 'payment', ARGV[6],
    'received_at', ARGV[7], 'traceparent', ARGV[8])
else
  id = redis.call('XADD', KEYS[1], '*', 'v', ARGV[5], 'seq', sequence, 'payment', ARGV[6],
    'received_at', ARGV[7])
end
local line = ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. sequence .. ' ' .. id .. '\n'
redis.call('SET', KEYS[3], (seen or '') .. line, 'PX', ARGV[2])
return 'appended ' .. sequence .. ' ' .. id
