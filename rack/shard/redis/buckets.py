"""Entries in many small hashes, in Lua: what :mod:`rack.shard.redis.packed` does on the server.

This is linear hashing (W. Litwin, 1980) by the leading bits of keys, so that buckets are in the order of keys. With
2^L + f buckets, the first f of 2^L equal ranges of 32 bits are cut into two (those below ``edge``), and the others are
whole (``step`` wide). When there are too many entries the next range is cut, and the last one is mended when there are
too few. A bucket is named by the four bytes that its range begins with; it is there if it has entries.

The first key that a script is sent with is never there: so a cluster refuses the script while it moves the slot, when
some buckets are on one node and some on another. Strings of Lua are not compared with ``<``, which goes by the locale.
"""

from __future__ import annotations

from rack.shard.redis.scripts import Functions, Script, Scripts

#: Entries of a bucket, in the middle. None has many more than twice as many: servers keep hashes of up to 128 as lists.
FILL = 32

_SHAPE = """
local pack, parse = struct.pack, struct.unpack
local step, edge, width
local function shape(number)
  width, step, edge = number, 4294967296, 0
  local whole = 1
  while 2 * whole <= number do whole, step = 2 * whole, step / 2 end
  edge = (number - whole) * step
end
"""
# The key of the number of buckets has also how often all were removed, as the upper half: their names begin with it.
_OPENED = """
local state = tonumber(STATE or 1)
shape(state % 4294967296)
local past = state - width
local buckets = past == 0 and NAME .. ':' or NAME .. past / 4294967296 .. ':'
"""
_PLACES: Functions = {
    "number_of": """
local function number_of(key)
  if #key < 4 then key = key .. '\\0\\0\\0\\0' end
  return (parse('>I4', key))
end
""",
    "below": """
local function below(at) return at - at % (at < edge and step / 2 or step) end
""",
    "above": """
local function above(low) return low + (low < edge and step / 2 or step) end
""",
    "name": """
local function name(low) return buckets .. pack('>I4', low) end
""",
    "place": """
local function place(key)
  local at = #key > 3 and parse('>I4', key) or number_of(key)
  return buckets .. pack('>I4', at - at % (at < edge and step / 2 or step))
end
""",
}

PACKED: Functions = {
    "": _SHAPE
    + """
local token = KEYS[2]
local found = redis.call('MGET', token, KEYS[3], KEYS[4], KEYS[5])
local known, count, added, removed = found[1], (found[3] or 0) - (found[4] or 0), 0, 0
"""
    + _OPENED.replace("STATE", "found[2]").replace("NAME", "KEYS[3]")
    + "local had = width\n",
    **_PLACES,
    # Both hashes are made anew: one that had become a table is a list again.
    "write": """
local function write(bucket, pairs)
  for at = 1, #pairs, 1000 do redis.call('HSET', bucket, unpack(pairs, at, math.min(at + 999, #pairs))) end
end
""",
    "grow": """
local function grow()
  local bucket, middle, lower, upper = name(edge), edge + step / 2, {}, {}
  local entries = redis.call('HGETALL', bucket)
  for i = 1, #entries, 2 do
    local half = number_of(entries[i]) < middle and lower or upper
    half[#half + 1], half[#half + 2] = entries[i], entries[i + 1]
  end
  if #upper > 0 then
    redis.call('DEL', bucket)
    write(bucket, lower)
    write(name(middle), upper)
  end
  shape(width + 1)
end
""",
    "shrink": """
local function shrink()
  shape(width - 1)
  local bucket = name(edge + step / 2)
  write(name(edge), redis.call('HGETALL', bucket))
  redis.call('DEL', bucket)
end
""",
    "get": """
local function get(key) return redis.call('HGET', place(key), key) end
""",
    "came": """
local function came()
  added, count = added + 1, count + 1
  if count > width * FILL and step > 2 then grow() end
end
""".replace("FILL", str(FILL)),
    "add": """
local function add(key, value)
  if redis.call('HSETNX', place(key), key, value) == 0 then return false end
  came()
  return true
end
""",
    "put": """
local function put(key, value)
  if redis.call('HSET', place(key), key, value) == 1 then came() else added, removed = added + 1, removed + 1 end
end
""",
    "remove": """
local function remove(key)
  if redis.call('HDEL', place(key), key) == 0 then return false end
  removed, count = removed + 1, count - 1
  if 2 * count < width * FILL and width > 1 then shrink() end
  return true
end
""".replace("FILL", str(FILL)),
    # Any key, from where the caller says: in order, the buckets that were emptied would be gone over again and again.
    "first": """
local function first(at)
  if count == 0 then return end
  at = below(tonumber(at))
  while true do
    local key = redis.call('HRANDFIELD', name(at))
    if key then return key end
    at = above(at) % 4294967296
  end
end
""",
    "range": """
local function before(one, other)
  if one == other then return false end
  local at = 1
  while true do
    local a, b = string.byte(one, at), string.byte(other, at)
    if a ~= b then return b and (not a or a < b) end
    at = at + 1
  end
end
local function range(low, high, limit)
  local start, stop = low == '-' and '' or string.sub(low, 2), high ~= '+' and string.sub(high, 2)
  local most = tonumber(limit)
  local at, last, keys = below(number_of(start)), stop and number_of(stop) or 4294967295, {}
  while at <= last and #keys < most do
    for _, key in ipairs(redis.call('HKEYS', name(at))) do
      if not before(key, start) and (not stop or before(key, stop)) then keys[#keys + 1] = key end
    end
    at = above(at)
  end
  table.sort(keys, before)
  for i = most + 1, #keys do keys[i] = nil end
  return keys
end
""",
    # How many entries came and went, of which an overwritten one did both: so they are count and version.
    "settle": """
local function settle()
  if added > 0 then redis.call('INCRBY', KEYS[4], added) end
  if removed > 0 then redis.call('INCRBY', KEYS[5], removed) end
  if width ~= had then redis.call('SET', KEYS[3], past + width) end
end
""",
}
CHANGES = Scripts(PACKED)

_READ: Functions = {
    "": _SHAPE + _OPENED.replace("STATE", "redis.call('GET', KEYS[2])").replace("NAME", "KEYS[2]"),
    **_PLACES,
}

#: key: its value.
GET = Script("return redis.call('HGET', place(ARGV[1]), ARGV[1])", _READ)

#: key: whether it is there.
CONTAINS = Script("return redis.call('HEXISTS', place(ARGV[1]), ARGV[1])", _READ)

#: keys: their values.
GET_MANY = Script(
    """
local values = {}
for i = 1, #ARGV do values[i] = redis.call('HGET', place(ARGV[i]), ARGV[i]) end
return values
""",
    _READ,
)

#: start, stop, whether there is one, limit, whether from the end, whether with values, bytes: the first and the last
#: four bytes of the ranges of buckets, and their entries, in no order. The first bucket has what is not in the range
#: too, and does not count.
SCAN = Script(
    """
local limit, reverse, values, most = tonumber(ARGV[4]), ARGV[5] == '1', ARGV[6] == '1', tonumber(ARGV[7])
local lowest = below(number_of(ARGV[1]))
local highest = ARGV[3] == '1' and below(number_of(ARGV[2])) or below(4294967295)
local at, answer, count, size = reverse and highest or lowest, {}, 0, 0
while at >= lowest and at <= highest do
  local found = redis.call(values and 'HGETALL' or 'HKEYS', name(at))
  if #answer > 0 then
    count = count + #found / (values and 2 or 1)
    for i = 1, #found do size = size + #found[i] end
  end
  if #found > 0 or #answer == 0 then
    answer[#answer + 1] = pack('>I4I4', at, above(at) - 1)
    answer[#answer + 1] = found
  end
  if count >= limit or size >= most then break end
  at = reverse and below(at - 1) or not reverse and above(at)
end
return answer
""",
    _READ,
)

_LEAVE = """
if redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('UNLINK', name(0))
  redis.call('RPUSH', KEYS[5], state, 0)
  redis.call('SET', KEYS[2], past + 4294967297)
  redis.call('SET', KEYS[4], redis.call('INCR', KEYS[3]))
end
"""
#: Have no buckets any more: what came has gone, and a little has changed. Those that there are wait to be swept.
CLEAR = Script(_LEAVE, _READ)

#: Remove some of the buckets that wait, in a list of numbers of buckets and beginnings; return whether more do.
SWEEP = Script(
    _SHAPE
    + """
local at = tonumber(redis.call('LINDEX', KEYS[3], 1))
if not at then return 0 end
"""
    + _OPENED.replace("STATE", "redis.call('LINDEX', KEYS[3], 0)").replace("NAME", "KEYS[2]")
    + """
local names = {}
while at < 4294967296 and #names < 4000 do
  names[#names + 1] = buckets .. pack('>I4', at)
  at = at + (at < edge and step / 2 or step)
end
redis.call('UNLINK', unpack(names))
if at < 4294967296 then redis.call('LSET', KEYS[3], 1, at) else redis.call('LTRIM', KEYS[3], 2, -1) end
return redis.call('LLEN', KEYS[3])
"""
)

# Of a shard of any layout, whose keys these are, the sixth its identity; what that begins with.
_OWN = """
local found = redis.call('GET', KEYS[6])
if found and found ~= ARGV[1] and string.sub(found, 1, #ARGV[1] + 1) ~= ARGV[1] .. ' ' then return 0 end
"""
#: If it is of that store, have no buckets any more.
LEAVE = Script(_OWN + _LEAVE + "return 1", _READ)
#: Remove what is of that store, once all is swept; and the number: but for the identity of the first shard.
REMOVE = Script(
    _OWN
    + """
for i = 1, #KEYS do
  if i ~= 6 or ARGV[2] ~= '0' then redis.call('UNLINK', KEYS[i]) end
end
return 1
"""
)

#: Of a shard of any layout, whose keys these are: how many bytes of memory it takes, about.
SIZE = Script(
    """
local total, sampled = 0, 0
for i = 1, #KEYS do total = total + (redis.call('MEMORY', 'USAGE', KEYS[i], 'SAMPLES', 20) or 0) end
for i = 0, 19 do
  local low = below(i * 214748364)
  sampled = sampled + (redis.call('MEMORY', 'USAGE', name(low)) or 0) * 4294967296 / (above(low) - low)
end
return math.floor(total + sampled / 20)
""",
    _READ,
)
