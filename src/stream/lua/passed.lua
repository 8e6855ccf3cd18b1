-- Whether our group has acknowledged an entry after the last one that the
-- ledger knows. Changes nothing.
--
-- KEYS  stream
-- ARGV  group, last entry that the ledger knows, last entry handed out (later)
-- Answers {1 if it has, sequence of the first entry kept after the one that the
-- ledger knows: "" without an entry, "?" if it has none}.
local after = '(' .. ARGV[2]
local count = redis.call('XPENDING', KEYS[1], ARGV[1])[1]
local held, passed = {}, 1
if count > 0 then
  for _, delivery in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], after, '+', count)) do
    held[delivery[1]], passed = true, 0
  end
end
-- With nothing pending in between, whatever was handed out was acknowledged.
-- Otherwise one of the first entries is not pending, if any was.
local entries = redis.call('XRANGE', KEYS[1], after, ARGV[3], 'COUNT', count + 1)
for _, entry in ipairs(entries) do
  if not held[entry[1]] then passed = 1 end
end
local first = redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', 1)[1]
if not first then return {passed, ''} end
for i = 1, #first[2], 2 do
  if first[2][i] == 'seq' then
    return {passed, string.match(first[2][i + 1], '^%d+$') or '?'}
  end
end
return {passed, '?'}
