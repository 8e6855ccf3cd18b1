-- Removes a stream of an earlier topology and its owner, once every group has
-- settled all of it.
--
-- KEYS  stream, owner
-- ARGV  our group, for which every entry waits while it is gone
-- Answers the groups that have not; the stream is then left alone.
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local waiting, ours = {}, false
for _, reply in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #reply, 2 do group[reply[i]] = reply[i + 1] end
  ours = ours or group['name'] == ARGV[1]
  if group['pending'] > 0 or entries_after(KEYS[1], group['last-delivered-id']) > 0 then
    waiting[#waiting + 1] = group['name']
  end
end
if not ours and redis.call('XLEN', KEYS[1]) > 0 then waiting[#waiting + 1] = ARGV[1] end
if #waiting == 0 then redis.call('DEL', KEYS[1], KEYS[2]) end
return waiting
