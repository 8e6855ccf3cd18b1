-- Removes a stream of an earlier topology and its owner, once every group has
-- settled all of it.
--
-- KEYS  stream, owner
-- Answers the groups that have not; the stream is then left alone.
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local waiting = {}
for _, reply in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #reply, 2 do group[reply[i]] = reply[i + 1] end
  if group['pending'] > 0 or entries_after(KEYS[1], group['last-delivered-id']) > 0 then
    waiting[#waiting + 1] = group['name']
  end
end
if #waiting == 0 then redis.call('DEL', KEYS[1], KEYS[2]) end
return waiting
