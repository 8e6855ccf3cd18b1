-- Lets the sequences of a new partition begin after one, and never goes back.
--
-- KEYS  seq
-- ARGV  the sequence after which to begin
-- DEL comes first because it is allowed at maxmemory and makes the SET pass.
local value = redis.call('GET', KEYS[1])
local known = tonumber(value or '-1')
if known and known < tonumber(ARGV[1]) then
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[1], ARGV[1])
end
return 1
