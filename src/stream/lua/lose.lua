-- Notes a range of sequences whose entries are lost, once.
--
-- KEYS  lost
-- ARGV  first and last sequence
return note_lost(KEYS[1], ARGV[1], ARGV[2])
