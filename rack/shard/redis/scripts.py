"""What runs inside the servers, in Lua: each script is done as a whole, and once, however often it is sent.

A command may have been done though its answer is lost. So each script that changes something is sent with a token: the
name of a session, of which one command is under way at a time, and a number. The number and the answer are kept beside
the shard for some minutes. A script that finds its own number there gives that answer, and does nothing.

What a script does, it does by the functions of a layout (``get``, ``add``, ``put``, ``remove``, ...), which know how
entries are kept: it is put together of those that it uses.
"""

from __future__ import annotations

from hashlib import sha1

from rack.shard.redis.protocol import strings

#: Milliseconds that an answer is kept: longer than any operation goes on asking.
KEPT = 300_000
#: Bytes of a value that is compared itself; of a longer one, the digest is.
COMPARED = 40

#: The functions of a layout in Lua, by name; one may use those before it. The text without a name comes first, and has
#: what was put down for the ``token`` as ``known``. ``settle`` is called when all is done.
Functions = dict[str, str]


class Script:
    """A script. ``call`` and ``load`` are the beginnings of a command that runs it: by its digest, and as a whole."""

    def __init__(self, source: str, functions: Functions | None = None) -> None:
        for name, function in reversed(list((functions or {}).items())):
            if f"{name}(" in source or name == "":
                source = function + source
        text = source.encode()
        self.call = strings((b"EVALSHA", sha1(text, usedforsecurity=False).hexdigest().encode()))
        self.load = strings((b"EVAL", text))


_ONCE = """
if known then
  local at = string.find(known, ' ', 1, true)
  if string.sub(known, 1, at - 1) == ARGV[1] then return string.sub(known, at + 1) end
end
local function ended(answer)
  settle()
  redis.pcall('SET', token, ARGV[1] .. ' ' .. answer, 'PX', KEPT)
  return answer
end
""".replace("KEPT", str(KEPT))

_SAME = """
local function same(value, told)
  if told == '-' then return not value end
  if not value then return false end
  if #value > COMPARED then value = redis.sha1hex(value) end
  return '+' .. value == told
end
""".replace("COMPARED", str(COMPARED))


class Scripts:
    """The scripts that change something, for one layout."""

    def __init__(self, functions: Functions) -> None:
        def made(body: str) -> Script:
            return Script(_ONCE + body, functions)

        #: key, value: "0" if it was added, else "1" and the value that is there.
        self.add = made("""
if add(ARGV[2], ARGV[3]) then return ended('0') end
return ended('1' .. get(ARGV[2]))
""")
        #: keys: how many there were.
        self.delete = made("""
local count = 0
for i = 2, #ARGV do
  if remove(ARGV[i]) then count = count + 1 end
end
return ended(tostring(count))
""")
        #: key: "0" if it was not there, else "1" and its value.
        self.pop = made("""
local value = get(ARGV[2])
if not value then return ended('0') end
remove(ARGV[2])
return ended('1' .. value)
""")
        #: some number of 32 bits: "" if the shard is empty, else the length of the key, a colon, the key and the value.
        self.pop_first = made("""
local key = first(ARGV[2])
if not key then return ended('') end
local value = get(key)
remove(key)
return ended(#key .. ':' .. key .. value)
""")
        #: pairs: for each "1" if it was added, else "0".
        self.add_many = made("""
local answers = {}
for i = 2, #ARGV, 2 do answers[i / 2] = add(ARGV[i], ARGV[i + 1]) and 1 or 0 end
return ended(table.concat(answers))
""")
        #: What was read, and has to be the same still; then what is to be written: "1" if it was, "0" if it was not.
        self.change = made(
            _SAME
            + """
local at = 2
local function word() at = at + 1; return ARGV[at - 1] end
for _ = 1, tonumber(word()) do
  local key = word()
  if not same(get(key), word()) then return ended('0') end
end
for _ = 1, tonumber(word()) do
  local low, high, limit, count = word(), word(), word(), tonumber(word())
  local keys = range(low, high, limit)
  if #keys ~= count then return ended('0') end
  for i = 1, count do
    if keys[i] ~= word() or not same(get(keys[i]), word()) then return ended('0') end
  end
end
for _ = 1, tonumber(word()) do
  local key = word()
  put(key, word())
end
while at <= #ARGV do remove(word()) end
return ended('1')
"""
        )
        #: key, what is added, the number that it is added to if the key is not there (or ""), and the form of numbers
        #: (see Shard.increase): the new number, or "" if it cannot be done so; then nothing is changed.
        self.increase = made("""
local value, number = get(ARGV[2]), nil
local binary = ARGV[5] == 'int32'
if not value then number = tonumber(ARGV[4])
elseif binary then
  local code = #value == 5 and string.byte(value)
  if code == 105 or code == 233 then number = struct.unpack('<i4', value, 2) end
elseif #value <= 15 and (value == '0' or string.find(value, '^-?[1-9]%d*$')) then number = tonumber(value) end
if not number then return '' end
number = number + tonumber(ARGV[3])
if binary then
  if number < -2147483648 or number > 2147483647 then return '' end
  value = 'i' .. struct.pack('<i4', number)
else
  if math.abs(number) > 999999999999999 then return '' end
  value = string.format('%.0f', number)
end
put(ARGV[2], value)
return ended(string.format('%.0f', number))
""")


#: Entries in one hash; in the ordered layout, the keys are in a sorted set as well, and changes are counted.
HASH: Functions = {
    "": """
local hash, token, order, version = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local known, changed = redis.call('GET', token), false
""",
    "get": """
local function get(key) return redis.call('HGET', hash, key) end
""",
    "add": """
local function add(key, value)
  if redis.call('HSETNX', hash, key, value) == 0 then return false end
  changed = true
  if order then redis.call('ZADD', order, 0, key) end
  return true
end
""",
    "put": """
local function put(key, value)
  changed = true
  if redis.call('HSET', hash, key, value) == 1 and order then redis.call('ZADD', order, 0, key) end
end
""",
    "remove": """
local function remove(key)
  if redis.call('HDEL', hash, key) == 0 then return false end
  changed = true
  if order then redis.call('ZREM', order, key) end
  return true
end
""",
    "first": """
local function first()
  if order then return redis.call('ZRANGE', order, 0, 0)[1] end
  return redis.call('HRANDFIELD', hash)
end
""",
    "range": """
local function range(low, high, limit) return redis.call('ZRANGEBYLEX', order, low, high, 'LIMIT', 0, limit) end
""",
    "settle": """
local function settle() if version and changed then redis.pcall('INCR', version) end end
""",
}
HASHES = Scripts(HASH)

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
