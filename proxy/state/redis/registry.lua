-- Keys and switches, each a field of one hash with the number of changes (`revision`), so that no
-- part of it can be lost without the rest; and the audit, a list with the latest entry first.
--
-- KEYS: the hash, the list. ARGV: what to do, and
--   save     entry, entries to keep, field, value
--   drop     entry, entries to keep, fields ('': all switches)
--   note     entry, entries to keep
--   restore  the revision that was known, fields and values: only where less than that is here

local registry, audit = KEYS[1], KEYS[2]
local act = {}

local function note()
    redis.call('LPUSH', audit, ARGV[2])
    redis.call('LTRIM', audit, 0, tonumber(ARGV[3]) - 1)
end

function act.note()
    note()
    return 0
end

function act.save()
    local value = ARGV[5]
    -- A key that was revoked stays so, whatever another process had read before and saves now.
    local before = redis.call('HGET', registry, ARGV[4])
    local revoked = before and string.match(before, '"revoked":([%d.eE+-]+)')
    if revoked then value = string.gsub(value, '"revoked":null', '"revoked":' .. revoked, 1) end
    redis.call('HSET', registry, ARGV[4], value)
    redis.call('HINCRBY', registry, 'revision', 1)
    note()
    return 1
end

function act.drop()
    local dropped = 0
    local fields = {}
    if ARGV[4] == '' then
        fields = redis.call('HKEYS', registry)
    else
        for i = 4, #ARGV do fields[#fields + 1] = ARGV[i] end
    end
    for _, field in ipairs(fields) do
        if string.sub(field, 1, 7) == 'switch:' then
            dropped = dropped + redis.call('HDEL', registry, field)
        end
    end
    redis.call('HINCRBY', registry, 'revision', 1)
    note()
    return dropped
end

function act.restore()
    local known = tonumber(ARGV[2])
    if (tonumber(redis.call('HGET', registry, 'revision')) or 0) >= known then return 0 end
    for i = 3, #ARGV, 2 do redis.call('HSET', registry, ARGV[i], ARGV[i + 1]) end
    redis.call('HSET', registry, 'revision', known + 1)
    return 1
end

return act[ARGV[1]]()
