-- What is remembered of a payment: the beginning of its content's digest, its sequence,
-- and its entry. Prepended to the scripts that read or write it; `references.rs` reads it,
-- too.
--
-- 8 bytes of the digest, 7 of the sequence, 6 of the id's milliseconds, and the id's number
-- as text. Redis keeps hashes compact while no value has more than 64 bytes.
local function remembered(digest, sequence, milliseconds, number)
  return digest .. struct.pack('>I7I6', sequence, milliseconds) .. number
end
-- Answers digest, sequence and id.
local function recalled(value)
  local sequence, milliseconds, rest = struct.unpack('>I7I6', value, 9)
  local id = string.format('%.0f-%s', milliseconds, string.sub(value, rest))
  return string.sub(value, 1, 8), sequence, id
end
