"""Lua scripts for what Redis must do atomically, each over many keys of one hash tag.

Except for CLAIM, each script takes a fixed number of arguments for each key, in the order of the keys, and returns one answer
for each key in the same order.
"""

import hashlib

# Keys: the hash of today's claims, those of the days beside it, and the one that is over. Arguments: event, place, event,
# place, ... Claims that another place holds come back: number of the event, that place.
CLAIM = """
local events, held, lost, new = {}, {}, {}, {}
for i = 1, #ARGV, 2 do events[#events + 1] = ARGV[i] end
for day = 1, 3 do
  if redis.call('EXISTS', KEYS[day]) == 1 then
    for i, place in ipairs(redis.call('HMGET', KEYS[day], unpack(events))) do
      if place then held[i] = place end
    end
  elseif day == 1 then
    -- So long that Redis never keeps this hash as a list, which it would search from its start for each event.
    redis.call('HSET', KEYS[1], '', string.rep('-', 65))
    redis.call('EXPIRE', KEYS[1], 259200)
    redis.call('UNLINK', KEYS[4])  -- in the background; a large hash that expires is waited for
  end
end
for i, event in ipairs(events) do
  local place = ARGV[2 * i]
  if not held[i] then
    new[#new + 1] = event
    new[#new + 1] = place
  elseif held[i] ~= place then
    lost[#lost + 1] = i
    lost[#lost + 1] = held[i]
  end
end
if #new > 0 then redis.call('HSET', KEYS[1], unpack(new)) end
return lost
"""

# Arguments: what the slot was (without its first letter; empty: there was none), what it becomes. Which ones are rewritten is
# kept in a set beside them: whoever remembers the older slot would never meet the new one, should it not get into the log.
WRITE = """
local done, written, pairs, rewritten = {}, {}, {}, {}
for i, slot in ipairs(redis.call('MGET', unpack(KEYS))) do
  local key, held = KEYS[i], ARGV[2 * i - 1]
  slot = written[key] or slot
  done[i] = 0
  if (slot and held == string.sub(slot, 2)) or (not slot and held == '') then
    written[key] = ARGV[2 * i]
    pairs[#pairs + 1] = key
    pairs[#pairs + 1] = ARGV[2 * i]
    done[i] = 1
    if held ~= '' then rewritten[#rewritten + 1] = string.match(key, '[^:]*$') end
  end
end
if #pairs > 0 then redis.call('MSET', unpack(pairs)) end
if #rewritten > 0 then redis.call('SADD', 'r:' .. string.match(KEYS[1], '{.-}'), unpack(rewritten)) end
return done
"""

# Argument: a child of this node.
ADOPT = """
local done = {}
for i, key in ipairs(KEYS) do done[i] = redis.call('SADD', key, ARGV[i]) end
return done
"""

# Arguments: what a holder is to hold, how many it may, the day, for how many days it then holds it. It takes one more only
# below its limit.
ADMIT = """
local done = {}
for i, key in ipairs(KEYS) do
  local member, most, day, days = ARGV[4 * i - 3], tonumber(ARGV[4 * i - 2]), tonumber(ARGV[4 * i - 1]), tonumber(ARGV[4 * i])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', day - days)
  done[i] = 1
  if redis.call('ZADD', key, 'NX', day, member) == 1 then
    if redis.call('ZCARD', key) > most then
      redis.call('ZREM', key, member)
      done[i] = 0
    else
      redis.call('EXPIRE', key, 86400 * (days + 1))
    end
  end
end
return done
"""

# Argument: the slot that was logged, without its first letter. It becomes logged if it is still the same.
CONFIRM = """
local done, pairs, rewritten = {}, {}, {}
for i, slot in ipairs(redis.call('MGET', unpack(KEYS))) do
  done[i] = 0
  if slot and string.sub(slot, 2) == ARGV[i] and string.match(slot, '^.|[^|]*|(%d+)') ~= '0' then
    rewritten[#rewritten + 1] = string.match(KEYS[i], '[^:]*$')
  end
  if slot == 'P' .. ARGV[i] then
    pairs[#pairs + 1] = KEYS[i]
    pairs[#pairs + 1] = 'D' .. ARGV[i]
    done[i] = 1
  end
end
if #pairs > 0 then redis.call('MSET', unpack(pairs)) end
if #rewritten > 0 then redis.call('SREM', 'r:' .. string.match(KEYS[1], '{.-}'), unpack(rewritten)) end
return done
"""

# Arguments: a slot from the log, its epoch. It replaces an older one, and one that is not known to be in the log (1); 2 where
# it is there already, 0 where a newer one is.
RESTORE = """
local done = {}
for i, key in ipairs(KEYS) do
  local found, slot, epoch = redis.call('GET', key), ARGV[2 * i - 1], tonumber(ARGV[2 * i])
  local newer = not found
  if found and found ~= slot then
    local held = tonumber(string.match(found, '^.|[^|]*|(%d+)'))
    newer = held < epoch or (held == epoch and string.sub(found, 1, 1) ~= 'D')
  end
  done[i] = found == slot and 2 or 0
  if newer then
    redis.call('SET', key, slot)
    done[i] = 1
  end
end
return done
"""

# Argument: the slot that is to go, without its first letter, or nothing where any goes that is in the log and was never
# rewritten. What is not there is gone.
EXPIRE = """
local done = {}
for i, key in ipairs(KEYS) do
  local found = redis.call('GET', key)
  done[i] = 1
  if found and (string.sub(found, 2) == ARGV[i] or (ARGV[i] == '' and string.match(found, '^D|[^|]*|0$'))) then
    redis.call('DEL', key)
  elseif found then
    done[i] = 0
  end
end
return done
"""

# Arguments: the text that was read (empty: there was none), the one that replaces it, for how many seconds it is kept.
REPLACE = """
local done = {}
for i, key in ipairs(KEYS) do
  done[i] = 0
  if (redis.call('GET', key) or '') == ARGV[3 * i - 2] then
    redis.call('SET', key, ARGV[3 * i - 1], 'EX', ARGV[3 * i])
    done[i] = 1
  end
end
return done
"""

ALL = (CLAIM, WRITE, ADOPT, ADMIT, CONFIRM, RESTORE, EXPIRE, REPLACE)
DIGESTS = {text: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for text in ALL}
"""Script -> SHA-1 that Redis stores it under."""
