-- Reads a cached balance, or hands out the right to fill the cache.
--
-- KEYS  balance, settling of the customer's partition
-- ARGV  lease token, lease in ms, identity of the server
-- The balance key holds the identity of the server that it was written under, and a
-- balance or a lease token. What was written under another counts for nothing.
-- Answers the cached value; or 1: read the ledger and fill; or 0: read the
-- ledger and do not fill, because a batch is being settled or another reader
-- holds the lease.
local value = redis.call('GET', KEYS[1]) or ''
local ours = ARGV[3] .. ' '
if string.sub(value, 1, #ours) == ours then
  local held = string.sub(value, #ours + 1)
  if string.sub(held, 1, 1) == '{' then return held end
  return 0
end
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('SET', KEYS[1], ours .. ARGV[1], 'PX', ARGV[2])
return 1
