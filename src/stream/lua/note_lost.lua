-- Notes in a lost key, once, that the entries of these sequences are lost.
-- Prepended to the scripts that find a loss.
--
-- DEL comes first because it is allowed at maxmemory and makes the SET pass.
local function note_lost(key, first, last)
  local line = first .. ' ' .. last .. '\n'
  local known = redis.call('GET', key) or ''
  if string.find('\n' .. known, '\n' .. line, 1, true) then return 0 end
  redis.call('DEL', key)
  redis.call('SET', key, known .. line)
  return 1
end
