-- Mirrors a partition's owner and epoch from the ledger, never a lower epoch.
--
-- KEYS  owner
-- ARGV  worker, epoch
-- The error FENCED says that a newer epoch is known. PERSIST comes first
-- because it is allowed at maxmemory and makes the HSET after it pass.
local known = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[2]) < known then
  return redis.error_reply('FENCED epoch ' .. ARGV[2] .. ' is older than ' .. known)
end
redis.call('PERSIST', KEYS[1])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', ARGV[2])
return known
