"""Lua scripts for what Redis must do atomically, each over many keys of one hash tag.

Except for CLAIM, each script takes a fixed number of arguments for each key, in the order of the keys, and returns one answer
for each key in the same order.
"""

import hashlib

# Keys: the hashes of claims of today, yesterday and tomorrow, and the expired one. Arguments: event, position, event, position,
# ... Returns, for each event that another position has claimed: index of the event, that position.
CLAIM = """
local events, held, lost, new = {}, {}, {}, {}
for i = 1, #ARGV, 2 do events[#events + 1] = ARGV[i] end
for day = 1, 3 do
  if redis.call('EXISTS', KEYS[day]) == 1 then
    for i, place in ipairs(redis.call('HMGET', KEYS[day], unpack(events))) do
      if place then held[i] = place end
    end
  elseif day == 1 then
    -- Longer than hash-max-listpack-value, so that Redis never stores this hash as a list with linear search.
    redis.call('HSET', KEYS[1], '', string.rep('-', 65))
    redis.call('EXPIRE', KEYS[1], 259200)
    redis.call('UNLINK', KEYS[4])  -- frees in the background; expiry of a large hash would block Redis
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

# Arguments: expected slot (without its first letter; empty: none), new slot. Rewritten nodes are also added to a set: a worker
# that cached the older slot would never read the new one if it did not get into the log.
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

# Arguments: member, most members, day, days that a member counts. Admits a new member only below the limit.
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

# Argument: the slot that was logged, without its first letter. It is marked as logged if it is unchanged.
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

# Arguments: a slot of the log, its epoch. Returns 1 where it replaced a missing, an older or an unlogged slot, 2 where it was
# there already, 0 where there is a newer one.
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

# Argument: the slot to delete, without its first letter; empty: any slot that is logged and was never rewritten. Returns 1 if
# there is no slot afterwards.
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

# Arguments: expected text (empty: none), new text, seconds until it expires.
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
