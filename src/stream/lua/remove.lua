-- Removes a stream of an earlier topology and its owner, once every group has
-- settled all of it.
--
-- KEYS  stream, owner
-- Answers the groups that have not; the stream is then left alone.
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local function fields(list)
  local named = {}
  for i = 1, #list, 2 do named[list[i]] = list[i + 1] end
  return named
end
local last = fields(redis.call('XINFO', 'STREAM', KEYS[1]))['last-generated-id']
local waiting = {}
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = fields(group)
  local drained = group['lag'] == 0 or group['last-delivered-id'] == last
  if group['pending'] > 0 or not drained then waiting[#waiting + 1] = group['name'] end
end
if #waiting == 0 then redis.call('DEL', KEYS[1], KEYS[2]) end
return waiting
