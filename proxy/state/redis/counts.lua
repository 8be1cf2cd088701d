-- What is used of the limits. The same decisions as proxy/core/policy/limits.py, which explains
-- them; tests hold the two together. All numbers are whole, times are milliseconds by this server.
--
-- ARGV: what to do, the time ('' or a number, for tests), the time of day (the same), and then
--   take    lease, its length; for each subject: five numbers
--   settle  lease, tokens ('': only its places); for each subject: five numbers
--   add     for each subject: five numbers, requests, tokens, tokens of the day
--   renew, again    length, leases
--   beat    id, length
--   swap    id, length, what it has learned, how many others to tell of
-- The five: requests per minute, tokens per minute, places, tokens per day ('': no limit), and the
-- tokens that are expected. KEYS: for each subject a hash and a sorted set; renew, again: sorted
-- sets; beat: one sorted set; swap: a sorted set and a hash.

local WINDOW, HALF, DAY = 60000, 30000, 86400000

local function clock()
    local now = redis.call('TIME')
    local server = now[1] * 1000 + math.floor(now[2] / 1000)
    return tonumber(ARGV[2]) or server, tonumber(ARGV[3]) or server
end

local at, wall = clock()

local function roll(window, limit)
    local passed = math.floor(at / WINDOW) - window.index
    if passed < -1 then -- the clock was set back
        window.index, window.before, window.count = window.index + passed, 0, 0
    elseif passed > 0 then
        local rest = math.max(0, window.count - (passed - 1) * limit)
        window.before = math.min(rest, limit)
        window.count = rest - window.before
        window.index = window.index + passed
    end
end

-- Milliseconds of the window that have passed.
local function elapsed(window)
    return math.max(0, at - window.index * WINDOW)
end

local function wait(window, more, limit)
    local room = limit - window.count - more
    if room >= 0 then
        if window.before * (WINDOW - elapsed(window)) <= room * WINDOW + HALF then return 0 end
        return WINDOW - math.floor((room * WINDOW + HALF) / window.before) - elapsed(window)
    end
    local windows = math.ceil((window.count + more) / limit) - 1
    local rest = window.count - (windows - 1) * limit
    local before = math.min(rest, limit)
    room = limit - (rest - before) - more
    local first = windows * WINDOW - elapsed(window)
    return first + math.max(0, WINDOW - math.floor((room * WINDOW + HALF) / before))
end

local function left(window, limit)
    local rest = WINDOW - elapsed(window)
    local free = (limit - window.count) * WINDOW - window.before * rest + HALF
    local reset = 0
    if window.count > 0 then
        reset = rest + math.ceil(window.count / limit) * WINDOW
    elseif window.before > 0 then
        reset = rest
    end
    return math.max(0, math.floor(free / WINDOW)), reset
end

-- What is no number that was written here counts as nothing.
local function whole(text)
    local number = tonumber(text or nil) or 0
    if number >= 0 and number <= 1e15 then return math.floor(number) end
    return 0
end

local function forget_ended(places)
    local done = redis.pcall('ZREMRANGEBYSCORE', places, '-inf', at)
    if type(done) == 'table' and done.err then redis.call('DEL', places) end -- not ours
end

local function load(number, from)
    local subject = {used = KEYS[2 * number - 1], places = KEYS[2 * number]}
    subject.requests_limit, subject.tokens_limit = tonumber(ARGV[from]), tonumber(ARGV[from + 1])
    subject.most, subject.day_limit = tonumber(ARGV[from + 2]), tonumber(ARGV[from + 3])
    subject.expected = tonumber(ARGV[from + 4])
    local found = redis.pcall('HMGET', subject.used, 'ri', 'rb', 'rc', 'ti', 'tb', 'tc', 'd', 'dt')
    if found.err then redis.call('DEL', subject.used) end -- not ours
    for i = 1, 8 do found[i] = whole(found[i]) end
    subject.requests = {index = found[1], before = found[2], count = found[3]}
    subject.tokens = {index = found[4], before = found[5], count = found[6]}
    subject.day, subject.today = math.floor(wall / DAY), found[8]
    if found[7] ~= subject.day then subject.today = 0 end
    if subject.requests_limit then roll(subject.requests, subject.requests_limit) end
    if subject.tokens_limit then roll(subject.tokens, subject.tokens_limit) end
    forget_ended(subject.places)
    return subject
end

local function store(subject)
    local requests, tokens = subject.requests, subject.tokens
    redis.call('HSET', subject.used,
        'ri', requests.index, 'rb', requests.before, 'rc', requests.count,
        'ti', tokens.index, 'tb', tokens.before, 'tc', tokens.count,
        'd', subject.day, 'dt', subject.today)
    local windows = math.max(
        requests.count / (subject.requests_limit or math.huge),
        tokens.count / (subject.tokens_limit or math.huge))
    local lasts = (math.ceil(windows) + 2) * WINDOW
    if subject.day_limit then lasts = math.max(lasts, DAY) end
    redis.call('PEXPIRE', subject.used, math.min(lasts, 30 * DAY))
end

local function hold(places, leases, length)
    for _, lease in ipairs(leases) do redis.call('ZADD', places, at + length, lease) end
    redis.call('PEXPIRE', places, length + 1000)
end

-- The wait of each limit that is reached, by its place in What.
local function refusals(subject)
    local found = {0, 0, 0, 0}
    local function least(most) return math.min(math.max(1, subject.expected), most) end
    if subject.requests_limit then
        found[1] = wait(subject.requests, 1, subject.requests_limit)
    end
    if subject.tokens_limit then
        found[2] = wait(subject.tokens, least(subject.tokens_limit), subject.tokens_limit)
    end
    if subject.most and redis.call('ZCARD', subject.places) >= subject.most then
        found[3] = 1000
    end
    if subject.day_limit and subject.today + least(subject.day_limit) > subject.day_limit then
        found[4] = DAY - wall % DAY
    end
    return found
end

local function count(subject, requests, tokens, today)
    if subject.requests_limit then
        subject.requests.count = math.max(0, subject.requests.count + requests)
    end
    if subject.tokens_limit then
        subject.tokens.count = math.max(0, subject.tokens.count + tokens)
    end
    if subject.day_limit then subject.today = math.max(0, subject.today + today) end
    store(subject)
end

local act = {}

-- Which subject and limit refuses it (0: none) and for how long; then for each subject what is
-- left of requests and tokens, each with the time until all of it is (-1: no limit).
function act.take()
    local lease, length = ARGV[4], tonumber(ARGV[5])
    local subjects, who, what, longest = {}, 0, 0, 0
    for number = 1, #KEYS / 2 do
        subjects[number] = load(number, 6 + 5 * (number - 1))
        for limit, lasts in ipairs(refusals(subjects[number])) do
            if lasts > longest then who, what, longest = number, limit, lasts end
        end
    end
    local answer = {who, what, longest}
    for _, subject in ipairs(subjects) do
        if who == 0 then
            count(subject, 1, subject.expected, subject.expected)
            hold(subject.places, {lease}, length)
        end
        local requests, requests_reset, tokens, tokens_reset = -1, -1, -1, -1
        if subject.requests_limit then
            requests, requests_reset = left(subject.requests, subject.requests_limit)
        end
        if subject.tokens_limit then
            tokens, tokens_reset = left(subject.tokens, subject.tokens_limit)
        end
        for _, one in ipairs({requests, requests_reset, tokens, tokens_reset}) do
            answer[#answer + 1] = one
        end
    end
    return answer
end

function act.settle()
    local lease, tokens = ARGV[4], tonumber(ARGV[5])
    for number = 1, #KEYS / 2 do
        local subject = load(number, 6 + 5 * (number - 1))
        local held = redis.call('ZREM', subject.places, lease) == 1
        if tokens then
            local more = tokens - subject.expected
            if not held then more = math.max(0, more) end
            count(subject, 0, more, more)
        end
    end
end

function act.add()
    for number = 1, #KEYS / 2 do
        local from = 4 + 8 * (number - 1)
        local requests, tokens, today =
            tonumber(ARGV[from + 5]), tonumber(ARGV[from + 6]), tonumber(ARGV[from + 7])
        count(load(number, from), requests, tokens, today)
    end
end

local function renew(again)
    local length = tonumber(ARGV[4])
    for _, places in ipairs(KEYS) do
        forget_ended(places)
        local leases = {}
        for i = 5, #ARGV do
            if again or redis.call('ZSCORE', places, ARGV[i]) then leases[#leases + 1] = ARGV[i] end
        end
        if #leases > 0 then hold(places, leases, length) end
    end
end

function act.renew() renew(false) end
function act.again() renew(true) end

function act.beat()
    local length = tonumber(ARGV[5])
    forget_ended(KEYS[1])
    redis.call('ZADD', KEYS[1], at + length, ARGV[4])
    redis.call('PEXPIRE', KEYS[1], length + 1000)
    return redis.call('ZCARD', KEYS[1])
end

function act.swap()
    local length = tonumber(ARGV[5])
    local ended = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', at)
    for _, id in ipairs(ended) do redis.call('HDEL', KEYS[2], id) end
    forget_ended(KEYS[1])
    local others = {}
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], at, '+inf', 'LIMIT', 0, ARGV[7])) do
        if id ~= ARGV[4] then others[#others + 1] = redis.call('HGET', KEYS[2], id) or '' end
    end
    redis.call('ZADD', KEYS[1], at + length, ARGV[4])
    redis.call('HSET', KEYS[2], ARGV[4], ARGV[6])
    for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, length + 1000) end
    return others
end

return act[ARGV[1]]()
