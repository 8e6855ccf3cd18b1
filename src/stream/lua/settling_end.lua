-- After a batch has ended: balances of this partition may be cached again,
-- unless another owner's batch has begun.
--
-- KEYS  settling
-- ARGV  token of the batch
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
