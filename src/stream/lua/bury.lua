-- Acknowledges an entry that the ledger keeps as a dead letter, and tells the
-- partition's dead stream, once.
--
-- KEYS  stream, dead
-- ARGV  group, id, code, reason, most entries to keep
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'stream_id', ARGV[2], 'code', ARGV[3],
  'reason', ARGV[4])
return 1
