-- Creates a group where it is missing; says whether it did.
--
-- KEYS  stream
-- ARGV  group, "start" for the first entry kept, or "now" for the next one
if redis.call('EXISTS', KEYS[1]) == 0 then
  return redis.error_reply('NOSTREAM stream ' .. KEYS[1] .. ' is missing')
end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  for i = 1, #group, 2 do
    if group[i] == 'name' and group[i + 1] == ARGV[1] then return 0 end
  end
end
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2] == 'now' and '$' or '0')
return 1
