-- Positions of the consumer groups of a stream.
--
-- KEYS  stream
-- ARGV  [the only group to look at]
-- Answers for each group {name, last delivered id, entries after that, pending
-- entries, first pending id, first id not delivered}; a missing id is empty.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return redis.error_reply('NOSTREAM stream ' .. KEYS[1] .. ' is missing')
end
local standings = {}
for _, reply in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #reply, 2 do group[reply[i]] = reply[i + 1] end
  local name, last, first_pending = group['name'], group['last-delivered-id'], ''
  if not ARGV[1] or ARGV[1] == name then
    if group['pending'] > 0 then first_pending = redis.call('XPENDING', KEYS[1], name)[2] end
    local lag, following = entries_after(KEYS[1], last)
    standings[#standings + 1] =
      {name, last, lag, group['pending'], first_pending, following or ''}
  end
end
return standings
