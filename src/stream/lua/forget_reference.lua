-- Forgets that a reference was sent as this entry, so that it is accepted again.
--
-- KEYS  ref
-- ARGV  id of the entry
-- Answers whether it was known. DEL comes first because it is allowed at
-- maxmemory and makes the SET pass.
local seen = redis.call('GET', KEYS[1]) or ''
local others = ''
for line in string.gmatch(seen, '[^\n]+\n') do
  if string.match(line, '(%S+)\n$') ~= ARGV[1] then others = others .. line end
end
if others == seen then return 0 end
local left = redis.call('PTTL', KEYS[1])
redis.call('DEL', KEYS[1])
if others ~= '' and left > 0 then redis.call('SET', KEYS[1], others, 'PX', left) end
return 1
