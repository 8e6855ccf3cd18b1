-- Forgets that a reference was sent as this entry, so that it is accepted again.
--
-- KEYS  ref of an earlier release, the hash of the reference in each table
-- ARGV  id of the entry, the field of each status
-- Answers whether it was known. DEL comes first because it is allowed at
-- maxmemory and makes the SET pass.
local known = 0
for place = 2, #KEYS do
  for status = 2, #ARGV do
    local value = redis.call('HGET', KEYS[place], ARGV[status])
    if value and select(3, recalled(value)) == ARGV[1] then
      known = known + redis.call('HDEL', KEYS[place], ARGV[status])
    end
  end
end
local seen = redis.call('GET', KEYS[1]) or ''
local others = ''
for line in string.gmatch(seen, '[^\n]+\n') do
  if string.match(line, '(%S+)\n$') ~= ARGV[1] then others = others .. line end
end
if others == seen then return known end
local left = redis.call('PTTL', KEYS[1])
redis.call('DEL', KEYS[1])
if others ~= '' and left > 0 then redis.call('SET', KEYS[1], others, 'PX', left) end
return 1
