//! What is done in one step within Redis. Time is that of Redis; numbers are written without exponent.

use redis::{Cmd, cmd};

/// Names of what is kept. The braces keep all of it in one place of a Redis Cluster.
#[derive(Clone)]
pub(super) struct Keys {
    /// Hash: worker number → token of its holder, and when its lease ends.
    pub(super) workers: String,
    /// Hash: worker number → latest moment that uids under it may bear. Kept for ever.
    pub(super) stamps: String,
    /// Hash: id of a node → when it was heard of, when it counts as gone, and what it says of itself.
    pub(super) nodes: String,
    /// Hash: what rows call a store → id of the node that alone has it at hand, or had.
    pub(super) owners: String,
    /// Channel for messages.
    pub(super) events: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let named = |name: &str| format!("{{{prefix}}}:{name}");
        Self {
            workers: named("workers"),
            stamps: named("stamps"),
            nodes: named("nodes"),
            owners: named("owners"),
            events: named("events"),
        }
    }
}

const NOW: &str = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) ";

/// Takes the first number from `ARGV[1]` on that nobody holds and whose last holder's uids are all older than now, for token
/// `ARGV[2]` and `ARGV[3]` milliseconds. When there is none, because the clock was ahead before: the one with the oldest uids.
/// Answers with the number, and the moments after and until which its uids may be; or with nothing.
const ACQUIRE: &str = "
local number, stamp
for i = 0, 1023 do
  local n = (ARGV[1] + i) % 1024
  local holder = redis.call('HGET', KEYS[1], n)
  if not holder or tonumber(string.match(holder, ' (%d+)$')) <= now then
    local newest = tonumber(redis.call('HGET', KEYS[2], n) or '0')
    if not stamp or newest < stamp then number, stamp = n, newest end
    if newest < now then break end
  end
end
if not number then return false end
local after = math.max(stamp, now)
local till = after + ARGV[3]
redis.call('HSET', KEYS[1], number, ARGV[2] .. ' ' .. string.format('%.0f', now + ARGV[3]))
redis.call('HSET', KEYS[2], number, string.format('%.0f', till))
return {number, after, till}";

/// Holds number `ARGV[1]` further for token `ARGV[2]`, for `ARGV[3]` milliseconds. Answers as `ACQUIRE`; with nothing if
/// somebody else has it. A number that nobody has is the bearer's still: Redis lost its data, or the lease was over and nobody
/// wanted it. Its uids have borne moments up to `ARGV[4]`.
const RENEW: &str = "
local holder = redis.call('HGET', KEYS[1], ARGV[1])
if holder and string.match(holder, '^(%S+)') ~= ARGV[2] then return false end
local stamp = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
local till = math.max(now + ARGV[3], stamp, tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now + ARGV[3]))
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f', till))
return {tonumber(ARGV[1]), now, till}";

/// Notes that node `ARGV[1]` is there, for `ARGV[2]` milliseconds, says `ARGV[3]` of itself, and alone has the stores that
/// follow. Of two that say so of one store the later is right: the other is dead.
const BEAT: &str = "
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f ', now, now + ARGV[2]) .. ARGV[3])
for i = 4, #ARGV do redis.call('HSET', KEYS[2], ARGV[i], ARGV[1]) end
return 1";

/// What the node that has store `ARGV[1]` says of itself, if it is not gone.
const FIND: &str = "
local id = redis.call('HGET', KEYS[2], ARGV[1])
local node = id and redis.call('HGET', KEYS[1], id)
if node and tonumber(string.match(node, '^%d+ (%d+)')) > now then return node end
return false";

/// All nodes that are not gone. Forgets those that are.
const NODES: &str = "
local all, alive = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  if tonumber(string.match(all[i + 1], '^%d+ (%d+)')) > now then
    table.insert(alive, all[i + 1])
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return alive";

/// Gives number `ARGV[1]` back, if token `ARGV[2]` still holds it, and forgets node `ARGV[3]`.
const LEAVE: &str = "
local holder = redis.call('HGET', KEYS[1], ARGV[1])
if holder and string.match(holder, '^(%S+)') == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
redis.call('HDEL', KEYS[2], ARGV[3])
return 1";

fn script(text: &str, keys: &[&str]) -> Cmd {
    let mut command = cmd("EVAL");
    command.arg(format!("{NOW}{text}")).arg(keys.len()).arg(keys);
    command
}

impl Keys {
    pub(super) fn acquire(&self, first: u16, token: &str, lease_ms: u64) -> Cmd {
        let mut command = script(ACQUIRE, &[&self.workers, &self.stamps]);
        command.arg(first).arg(token).arg(lease_ms);
        command
    }

    pub(super) fn renew(&self, number: u16, token: &str, lease_ms: u64, until: u64) -> Cmd {
        let mut command = script(RENEW, &[&self.workers, &self.stamps]);
        command.arg(number).arg(token).arg(lease_ms).arg(until);
        command
    }

    pub(super) fn beat(&self, id: &str, for_ms: u64, node: &str, own_stores: &[String]) -> Cmd {
        let mut command = script(BEAT, &[&self.nodes, &self.owners]);
        command.arg(id).arg(for_ms).arg(node).arg(own_stores);
        command
    }

    pub(super) fn find(&self, store: &str) -> Cmd {
        let mut command = script(FIND, &[&self.nodes, &self.owners]);
        command.arg(store);
        command
    }

    pub(super) fn list(&self) -> Cmd {
        script(NODES, &[&self.nodes])
    }

    pub(super) fn leave(&self, number: u16, token: &str, id: &str) -> Cmd {
        let mut command = script(LEAVE, &[&self.workers, &self.nodes]);
        command.arg(number).arg(token).arg(id);
        command
    }

    pub(super) fn publish(&self, message: &str) -> Cmd {
        let mut command = cmd("PUBLISH");
        command.arg(&self.events).arg(message);
        command
    }
}
