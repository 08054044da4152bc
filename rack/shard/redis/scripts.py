"""What runs inside the servers, in Lua: each script is done as a whole, and once, however often it is sent.

A command may have been done though its answer is lost. So each script that changes something is sent with a token: the
name of a session, of which one command is under way at a time, and a number. The number and the answer are kept beside
the shard for some minutes. A script that finds its own number there gives that answer, and does nothing.
"""

from __future__ import annotations

from hashlib import sha1

from rack.shard.redis.protocol import strings

#: Milliseconds that an answer is kept: longer than any operation goes on asking.
KEPT = 300_000
#: Bytes of a value that is compared itself; of a longer one, the digest is.
COMPARED = 40

_ONCE = """
local hash, token, order, version = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local known = redis.call('GET', token)
if known then
  local at = string.find(known, ' ', 1, true)
  if string.sub(known, 1, at - 1) == ARGV[1] then return string.sub(known, at + 1) end
end
local function ended(answer, changed)
  if version and changed then redis.pcall('INCR', version) end
  redis.pcall('SET', token, ARGV[1] .. ' ' .. answer, 'PX', KEPT)
  return answer
end
""".replace("KEPT", str(KEPT))

_SAME = """
local function same(value, told)
  if told == '-' then return value == false end
  if value == false then return false end
  if #value > COMPARED then value = redis.sha1hex(value) end
  return '+' .. value == told
end
""".replace("COMPARED", str(COMPARED))


class Script:
    """A script. ``call`` and ``load`` are the beginnings of a command that runs it: by its digest, and as a whole."""

    def __init__(self, source: str) -> None:
        text = source.encode()
        self.call = strings((b"EVALSHA", sha1(text, usedforsecurity=False).hexdigest().encode()))
        self.load = strings((b"EVAL", text))


#: key, value: "0" if it was added, else "1" and the value that is there.
ADD = Script(
    _ONCE
    + """
if redis.call('HSETNX', hash, ARGV[2], ARGV[3]) == 0 then return ended('1' .. redis.call('HGET', hash, ARGV[2])) end
if order then redis.call('ZADD', order, 0, ARGV[2]) end
return ended('0', true)
"""
)

#: keys: how many there were.
DELETE = Script(
    _ONCE
    + """
local count = 0
for i = 2, #ARGV do
  if redis.call('HDEL', hash, ARGV[i]) == 1 then
    count = count + 1
    if order then redis.call('ZREM', order, ARGV[i]) end
  end
end
return ended(tostring(count), count > 0)
"""
)

#: key: "0" if it was not there, else "1" and its value.
POP = Script(
    _ONCE
    + """
local value = redis.call('HGET', hash, ARGV[2])
if not value then return ended('0') end
redis.call('HDEL', hash, ARGV[2])
if order then redis.call('ZREM', order, ARGV[2]) end
return ended('1' .. value, true)
"""
)

#: "" if the shard is empty, else the length of the key, a colon, the key and the value.
POP_FIRST = Script(
    _ONCE
    + """
local key
if order then key = redis.call('ZRANGE', order, 0, 0)[1] else key = redis.call('HRANDFIELD', hash) end
if not key then return ended('') end
local value = redis.call('HGET', hash, key)
redis.call('HDEL', hash, key)
if order then redis.call('ZREM', order, key) end
return ended(#key .. ':' .. key .. value, true)
"""
)

#: pairs: for each "1" if it was added, else "0".
ADD_MANY = Script(
    _ONCE
    + """
local answers = {}
local changed = false
for i = 2, #ARGV, 2 do
  local added = redis.call('HSETNX', hash, ARGV[i], ARGV[i + 1])
  if added == 1 then
    changed = true
    if order then redis.call('ZADD', order, 0, ARGV[i]) end
  end
  answers[i / 2] = added
end
return ended(table.concat(answers), changed)
"""
)

#: What was read, and has to be the same still; then what is to be written: "1" if it was, "0" if it was not the same.
CHANGE = Script(
    _ONCE
    + _SAME
    + """
local at = 2
local function word() at = at + 1; return ARGV[at - 1] end
for _ = 1, tonumber(word()) do
  local key = word()
  if not same(redis.call('HGET', hash, key), word()) then return ended('0') end
end
for _ = 1, tonumber(word()) do
  local low, high, limit, count = word(), word(), word(), tonumber(word())
  local keys = redis.call('ZRANGEBYLEX', order, low, high, 'LIMIT', 0, limit)
  if #keys ~= count then return ended('0') end
  for i = 1, count do
    if keys[i] ~= word() or not same(redis.call('HGET', hash, keys[i]), word()) then return ended('0') end
  end
end
for _ = 1, tonumber(word()) do
  local key = word()
  local added = redis.call('HSET', hash, key, word())
  if order and added == 1 then redis.call('ZADD', order, 0, key) end
end
while at <= #ARGV do
  local key = word()
  redis.call('HDEL', hash, key)
  if order then redis.call('ZREM', order, key) end
end
return ended('1', true)
"""
)

#: Of the ordered layout: low, high, limit, whether from the end, whether with values, bytes at most.
SCAN = Script(
    """
local keys
if ARGV[4] == '1' then keys = redis.call('ZREVRANGEBYLEX', KEYS[2], ARGV[2], ARGV[1], 'LIMIT', 0, ARGV[3])
else keys = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3]) end
local answer, size, most = {}, 0, tonumber(ARGV[6])
for i = 1, #keys do
  answer[#answer + 1] = keys[i]
  size = size + #keys[i]
  if ARGV[5] == '1' then
    local value = redis.call('HGET', KEYS[1], keys[i])
    answer[#answer + 1] = value
    if value then size = size + #value end
  end
  if size >= most then break end
end
return answer
"""
)

#: Of the ordered layout: how many entries there are, and how many keys in order.
COUNTS = Script("return {redis.call('HLEN', KEYS[1]), redis.call('ZCARD', KEYS[2])}")

#: The mark of a store: what it was and what it is to be, "-" or "+" and the bytes: "1" if it was so.
MARK = Script(
    """
local found = redis.call('GET', KEYS[1])
if found == false then
  if ARGV[1] ~= '-' then return '0' end
elseif '+' .. found ~= ARGV[1] then
  return '+' .. found == ARGV[2] and '1' or '0'
end
if ARGV[2] == '-' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], string.sub(ARGV[2], 2)) end
return '1'
"""
)


def told(value: bytes | None) -> bytes:
    """Return what tells a value from others, as scripts compare it."""
    if value is None:
        return b"-"
    if len(value) > COMPARED:
        return b"+" + sha1(value, usedforsecurity=False).hexdigest().encode()
    return b"+" + value
