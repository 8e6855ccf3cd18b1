-- Reads a cached balance, or hands out the right to fill the cache.
--
-- KEYS  balance, settling of the customer's partition
-- ARGV  lease token, lease in ms
-- Answers the cached value; or 1: read the ledger and fill; or 0: read the
-- ledger and do not fill, because a batch is being settled or another reader
-- holds the lease.
local value = redis.call('GET', KEYS[1])
if value then
  if string.sub(value, 1, 1) == '{' then return value end
  return 0
end
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
