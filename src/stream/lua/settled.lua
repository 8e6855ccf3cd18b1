-- After a batch has ended: acknowledges its entries. Balances of this partition may be
-- cached again, unless another owner's batch has begun.
--
-- KEYS  settling, stream
-- ARGV  token of the batch, group, ids
-- Lua passes some thousands of arguments at most.
local FIRST, STEP = 3, 1000
for first = FIRST, #ARGV, STEP do
  local ids = { unpack(ARGV, first, math.min(first + STEP - 1, #ARGV)) }
  redis.call('XACK', KEYS[2], ARGV[2], unpack(ids))
end
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
