-- Writes one record if the one that is there is still the one that was read: one atomic step on the server.
-- KEYS[1]  the record
-- ARGV[1]  how the record that was read begins, its tag included; empty when there was none
-- ARGV[2]  the next record; empty to remove it
-- ARGV[3]  when the server may clear it away by itself, in milliseconds since the epoch
-- Returns 1, or what is there instead (nil for nothing): the caller tries again with that.
local read = ARGV[1]
local there = redis.call('GETRANGE', KEYS[1], 0, math.max(#read - 1, 0))
if there ~= read then
  return redis.call('GET', KEYS[1])
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
end
return 1
