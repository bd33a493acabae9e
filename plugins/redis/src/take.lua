-- TokenBucket::apply of selvedge-core, in one atomic step. The numbers are whole and below 2^53, so that doubles hold them
-- exactly: the caller sees to it that a rule's capacity and refill are at most 2 * 10^9 and its time is below 2^51 microseconds.
--
-- KEYS: the bucket. ARGV: capacity, refill, per in microseconds, 'spend' or 'settle', by how much, and the time in microseconds
-- for those who go by a clock of their own (else empty). Answers {what, number}: 1 granted and what remains, 0 denied and in
-- how many microseconds to come back, 2 never.

local MICRO = 1000000
-- The largest debt that is kept: 4 * 10^9 tokens.
local DEEPEST = -4e15
-- Times beyond this are not told apart.
local FOREVER = 9e15

local capacity, refill, per = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ask, amount, given = ARGV[4], tonumber(ARGV[5]), ARGV[6]

local now
if given == '' then
  local time = redis.call('TIME')
  now = time[1] * MICRO + time[2]
else
  now = tonumber(given)
end

-- The whole part and the remainder of a * b / c, bit by bit: a product would not fit.
local function mul_div(a, b, c)
  local rest = math.fmod(b, c)
  local whole = (b - rest) / c
  local bits = {}
  while a > 0 do
    local bit = math.fmod(a, 2)
    bits[#bits + 1] = bit
    a = (a - bit) / 2
  end
  local q, r = 0, 0
  for i = #bits, 1, -1 do
    q, r = q * 2, r * 2
    if bits[i] == 1 then
      q, r = q + whole, r + rest
    end
    while r >= c do
      q, r = q + 1, r - c
    end
  end
  return q, r
end

-- Microseconds until so many millionths of a token are gained.
local function time_to_gain(missing)
  local q, r = mul_div(missing, per, refill * MICRO)
  if r > 0 then
    q = q + 1
  end
  return math.min(q, FOREVER)
end

local full = capacity * MICRO
local tokens, refilled = full, now
local known = redis.call('GET', KEYS[1])
if known then
  local kept, at = string.match(known, '^(-?%d+) (%d+)$')
  if not kept then
    return redis.error_reply('DAMAGED the key holds something else than a bucket')
  end
  tokens, refilled = tonumber(kept), tonumber(at)
  if now > refilled then
    local gained = mul_div(now - refilled, refill * MICRO, per)
    tokens, refilled = tokens + gained, now
  end
  tokens = math.min(tokens, full)
end

local what, number
if ask == 'settle' then
  tokens = math.max(math.min(tokens - amount * MICRO, full), DEEPEST)
  what = 1
else
  local wanted = amount * MICRO
  if wanted <= tokens then
    tokens = tokens - wanted
    what = 1
  elseif wanted > full or refill == 0 then
    what, number = 2, 0
  else
    what, number = 0, time_to_gain(wanted - tokens)
  end
end
if what == 1 then
  number = math.floor(math.max(tokens, 0) / MICRO)
end

local kept = string.format('%.0f %.0f', tokens, refilled)
-- A bucket that is full again is as good as none. By a given clock Redis cannot tell when that is.
if given == '' and refill > 0 then
  local milliseconds = math.floor(time_to_gain(full - tokens) / 1000) + 1
  redis.call('SET', KEYS[1], kept, 'PX', string.format('%.0f', math.min(milliseconds, 1e14)))
else
  redis.call('SET', KEYS[1], kept)
end
return { what, string.format('%.0f', number) }
