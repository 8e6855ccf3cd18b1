-- Closes a partition to appends, opens it again, or closes it for good.
--
-- KEYS  seq
-- ARGV  close, open or seal
-- Answers the last sequence that was given out. The key holds that number, or
-- "resize:" and the number while the partition is closed, or "resized:" and
-- the number once it is closed for good. DEL comes first because it is allowed
-- at maxmemory and makes the SET after it pass.
local steps = {
  close = {open = 'resize:', resize = 'resize:', resized = 'resized:'},
  open = {open = '', resize = ''},
  seal = {resize = 'resized:', resized = 'resized:'},
}
local value = redis.call('GET', KEYS[1]) or '0'
local state, sequence = string.match(value, '^(%a+):(%d+)$')
local head = steps[ARGV[1]][state or 'open']
if not head then
  return redis.error_reply('GATE ' .. KEYS[1] .. ' holds ' .. value .. '; cannot ' .. ARGV[1] .. ' it')
end
sequence = sequence or value
if value ~= head .. sequence then
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[1], head .. sequence)
end
return sequence
