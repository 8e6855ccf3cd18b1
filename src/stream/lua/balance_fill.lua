-- Fills the cache if the lease that was handed out still stands. A batch that
-- began since has removed it, so an old balance is never put back.
--
-- KEYS  balance
-- ARGV  lease token, value, time to live in ms, identity of the server
local ours = ARGV[4] .. ' '
if redis.call('GET', KEYS[1]) ~= ours .. ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ours .. ARGV[2], 'PX', ARGV[3])
return 1
