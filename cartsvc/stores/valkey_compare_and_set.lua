-- Write one record if it has not changed since it was read, in one atomic step on the server.
-- KEYS[1]  the key of the record
-- ARGV[1]  the first bytes of the record that was read, including its tag; empty if it was absent
-- ARGV[2]  the next record; empty to remove it
-- ARGV[3]  when the server removes it by itself, in milliseconds since the epoch
-- Return 1, or the current record (nil if absent), with which the caller tries again.
local expected = ARGV[1]
local found = redis.call('GETRANGE', KEYS[1], 0, math.max(#expected - 1, 0))
if found ~= expected then
  return redis.call('GET', KEYS[1])
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
end
return 1
