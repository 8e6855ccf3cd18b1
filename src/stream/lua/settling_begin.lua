-- Before a batch commits: forget the balances it changes, and let nobody cache
-- a balance of this partition until it has ended.
--
-- KEYS  settling, balance of each customer in the batch
-- ARGV  token of the batch, longest time a batch may take in ms
-- DEL comes first because it is allowed at maxmemory and makes the SET after it
-- pass: a full Redis must be drained.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
return 1
