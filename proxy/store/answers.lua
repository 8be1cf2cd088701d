-- Answers that are kept, and an index of them: which was used longest ago goes first when they are
-- too many bytes. Times are milliseconds by this server.
--
-- KEYS: places by their last use, places by their end (sorted sets), sizes by place (a hash), the
-- bytes of all. ARGV: what to do, what the names of values begin with, and then
--   write   the most bytes; for each value: its place, for how long, what it counts for, the value
--   use     places
--   sweep   how many at most
--   delete  a place
--   clear   what places begin with, a cursor
-- Answers the bytes that are held; delete: whether it was there; clear: the next cursor, how many.

local BY_USE, BY_END, SIZES, HELD = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local WHAT, VALUES = ARGV[1], ARGV[2]
local AT_ONCE = 200

local function clock()
    local now = redis.call('TIME')
    return now[1] * 1000 + math.floor(now[2] / 1000)
end

local function held()
    return tonumber(redis.call('GET', HELD) or '0')
end

local function forget(place)
    local size = redis.call('HGET', SIZES, place)
    redis.call('ZREM', BY_USE, place)
    redis.call('ZREM', BY_END, place)
    if size then
        redis.call('HDEL', SIZES, place)
        redis.call('DECRBY', HELD, size)
    end
end

local function remove(place)
    forget(place)
    return redis.call('DEL', VALUES .. place)
end

local function write(most)
    local now = clock()
    for i = 4, #ARGV, 4 do
        local place, ttl, size = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
        -- First of all: a script that has written is not refused when Redis is out of memory.
        redis.call('SET', VALUES .. place, ARGV[i + 3], 'PX', ttl)
        forget(place)
        redis.call('ZADD', BY_USE, now, place)
        redis.call('ZADD', BY_END, now + ttl, place)
        redis.call('HSET', SIZES, place, size)
        redis.call('INCRBY', HELD, size)
    end
    for _ = 1, AT_ONCE do
        if held() <= most then break end
        local oldest = redis.call('ZRANGE', BY_USE, 0, 0)
        if #oldest == 0 then -- the index was lost: values end by themselves
            redis.call('SET', HELD, 0)
            break
        end
        remove(oldest[1])
    end
    return held()
end

if WHAT == 'write' then
    return write(tonumber(ARGV[3]))
elseif WHAT == 'use' then
    local now = clock()
    for i = 3, #ARGV do redis.call('ZADD', BY_USE, 'XX', now, ARGV[i]) end
    return held()
elseif WHAT == 'sweep' then
    local over = redis.call('ZRANGEBYSCORE', BY_END, '-inf', clock(), 'LIMIT', 0, ARGV[3])
    for _, place in ipairs(over) do remove(place) end
    return held()
elseif WHAT == 'delete' then
    return remove(ARGV[3])
elseif WHAT == 'clear' then
    local start, found = ARGV[3], 0
    local scanned = redis.call('ZSCAN', BY_END, ARGV[4], 'COUNT', AT_ONCE)
    for i = 1, #scanned[2], 2 do
        local place = scanned[2][i]
        if string.sub(place, 1, #start) == start then found = found + remove(place) end
    end
    return {scanned[1], found}
end
return redis.error_reply('unknown')
