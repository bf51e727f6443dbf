//! What runs inside Redis, in one step each. All keys of a script share one hash tag, and so a slot.
//!
//! A version is the server's time of the last change in microseconds: it grows, and no two states of a URL share one,
//! even when everything of the URL was deleted in between.

use std::sync::LazyLock;

use crate::redis::Script;

/// What is known of bodies, for the scripts below: where a head says how old it is and which chunks belong to it.
macro_rules! with_heads {
    ($code:literal) => {
        concat!(
            r"
local function stored(head) return (struct.unpack('>I6', head, 5)) end
local function begun_later(one, other)
  local a, b = struct.unpack('>I4I4', one, 39)
  local c, d = struct.unpack('>I4I4', other, 39)
  return a > c or (a == c and b > d)
end
local function content(head) return string.sub(head, 11, 30) end
local function each_chunk(prefix, field, head, act)
  if not head or string.sub(head, 1, 4) ~= 'TGH\3' or #head < 46 then return end
  local hex = string.gsub(string.sub(head, 15, 30), '.', function(c) return string.format('%02x', string.byte(c)) end)
  for at = 0, math.min(struct.unpack('>I4', head, 11), 65536) - 1 do
    if act(prefix .. field .. ':' .. hex .. ':' .. at) == 0 then return false end
  end
  return true
end
local function next_version()
  local time = redis.call('TIME')
  local version = math.max(time[1] * 1000000 + time[2], (tonumber(redis.call('HGET', KEYS[1], 'v')) or 0) + 1)
  return string.format('%.0f', version)
end
",
            $code
        )
    };
}

/// Writes a head: field, head, ms to live, `1` if its chunks must be there already, prefix of chunks, ms that replaced
/// chunks are kept, most fields, lease's token or nothing, channel, message. 1: written; 0: chunks are missing; 2: what
/// is there is newer: by the clocks of those who stored, unless a purge came between the two fetches. The lease is released, and the waiting told, with 1 and 2.
pub(super) static PUT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(with_heads!(
        r"
local field, head, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
local prefix, grace = ARGV[5], tonumber(ARGV[6])
local old = redis.call('HGET', KEYS[1], field)
if old and (string.sub(old, 1, 4) ~= 'TGH\3' or #old < 46) then old = false end
local same = old and content(old) == content(head)
local verdict = 1
if old and stored(old) > stored(head) and not begun_later(head, old) then
  verdict = 2
else
  if ARGV[4] == '1' then
    if not same then return 0 end
    local keep = function(chunk) return redis.call('PEXPIRE', chunk, ttl) end
    if each_chunk(prefix, field, head, keep) == false then return 0 end
  end
  if old and not same then
    each_chunk(prefix, field, old, function(chunk) redis.call('PEXPIRE', chunk, grace) end)
  end
  redis.call('HSET', KEYS[1], field, head, 'v', next_version())
  if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[7]) + 1 then
    local all, oldest, age = redis.call('HGETALL', KEYS[1]), nil, nil
    for at = 1, #all, 2 do
      if all[at] ~= 'v' and all[at] ~= field then
        local this = #all[at + 1] < 46 and 0 or stored(all[at + 1])
        if not age or this < age then oldest, age = at, this end
      end
    end
    each_chunk(prefix, all[oldest], all[oldest + 1], function(chunk) redis.call('PEXPIRE', chunk, grace) end)
    redis.call('HDEL', KEYS[1], all[oldest])
  end
  if redis.call('PTTL', KEYS[1]) < ttl then redis.call('PEXPIRE', KEYS[1], ttl) end
end
if ARGV[8] ~= '' then
  if redis.call('GET', KEYS[2]) == ARGV[8] then redis.call('DEL', KEYS[2]) end
  redis.call('PUBLISH', ARGV[9], ARGV[10])
end
return verdict
"
    ))
});

/// Takes a variant out unless a newer one is in its place: field, when it was stored in ms since 1970, prefix of chunks, ms
/// that its chunks are kept. 1 if it was there.
pub(super) static WITHDRAW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(with_heads!(
        r"
local old = redis.call('HGET', KEYS[1], ARGV[1])
if not old or #old < 10 or stored(old) > tonumber(ARGV[2]) then return 0 end
each_chunk(ARGV[3], ARGV[1], old, function(chunk) redis.call('PEXPIRE', chunk, ARGV[4]) end)
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], 'v', next_version())
return 1
"
    ))
});

/// Takes the lease if nothing changed: version seen, token, ms to live. 1: taken; 0: held; else all fields.
pub(super) static LEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if (redis.call('HGET', KEYS[1], 'v') or '0') ~= ARGV[1] then return redis.call('HGETALL', KEYS[1]) end
if redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then return 1 end
return 0
",
    )
});

/// Keeps the lease: token, ms to live from now. 1 if it was still held.
pub(super) static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
",
    )
});

/// Gives the lease back and tells the waiting: token, channel, message. 1 if it was still held.
pub(super) static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
",
    )
});

/// Forgets all variants and their chunks: prefix of chunks.
pub(super) static PURGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(with_heads!(
        r"
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  each_chunk(ARGV[1], all[at], all[at + 1], function(chunk) redis.call('UNLINK', chunk) end)
end
return redis.call('UNLINK', KEYS[1])
"
    ))
});
