//! Lua scripts, which Redis runs atomically. They use the clock of Redis, and format numbers
//! without an exponent.

use redis::{Cmd, cmd};

/// Names of keys and channels. The braces put all keys into one hash slot of a Redis Cluster.
#[derive(Clone)]
pub(super) struct Keys {
    /// Hash: worker id → token of its holder, and time at which the lease ends.
    pub(super) workers: String,
    /// Hash: worker id → latest timestamp that uids with this worker id may have. Never deleted.
    pub(super) timestamps: String,
    /// Hash: node id → time of the latest heartbeat, time from which the node counts as gone, and
    /// description of the node.
    pub(super) nodes: String,
    /// Hash: store id → id of the node with exclusive access to the store. The id stays after the
    /// node is gone.
    pub(super) owners: String,
    /// Channel for messages.
    pub(super) events: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let named = |name: &str| format!("{{{prefix}}}:{name}");
        Self {
            workers: named("workers"),
            timestamps: named("stamps"),
            nodes: named("nodes"),
            owners: named("owners"),
            events: named("events"),
        }
    }
}

const NOW: &str = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) ";

/// Acquires a worker id for token `ARGV[2]`, for `ARGV[3]` milliseconds. The search starts at id
/// `ARGV[1]`, and takes the first free id whose previous uids all have timestamps before now. If
/// there is no such id, takes the free id with the oldest timestamps. Returns the worker id and the
/// bounds for the timestamps of new uids, or nothing if all worker ids are in use.
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

/// Renews the lease of worker id `ARGV[1]` for token `ARGV[2]`; the lease then ends in `ARGV[3]`
/// milliseconds. `ARGV[4]` is the latest timestamp that existing uids of the caller can have.
/// Returns the worker id and the bounds for the timestamps of new uids, or nothing if another token
/// holds the worker id. If the worker id has no holder, the caller gets it back: either Redis has
/// lost its data, or another node has acquired and released the worker id.
const RENEW: &str = "
local holder = redis.call('HGET', KEYS[1], ARGV[1])
if holder and string.match(holder, '^(%S+)') ~= ARGV[2] then return false end
local stamp = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
local till = math.max(now + ARGV[3], stamp, tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now + ARGV[3]))
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f', till))
return {tonumber(ARGV[1]), now, till}";

/// Records a heartbeat of node `ARGV[1]`, valid for `ARGV[2]` milliseconds, with the description
/// `ARGV[3]`. The further arguments are the ids of the stores that only this node can access. If
/// two nodes claim the same store, the latest heartbeat wins: the other node is assumed to be dead.
const HEARTBEAT: &str = "
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f ', now, now + ARGV[2]) .. ARGV[3])
for i = 4, #ARGV do redis.call('HSET', KEYS[2], ARGV[i], ARGV[1]) end
return 1";

/// Returns the record of the node that owns store `ARGV[1]`, or nothing if no live node owns it.
const FIND_OWNER: &str = "
local id = redis.call('HGET', KEYS[2], ARGV[1])
local node = id and redis.call('HGET', KEYS[1], id)
if node and tonumber(string.match(node, '^%d+ (%d+)')) > now then return node end
return false";

/// Returns the records of all live nodes. Deletes the records of nodes that are gone.
const LIST_NODES: &str = "
local all, alive = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  if tonumber(string.match(all[i + 1], '^%d+ (%d+)')) > now then
    table.insert(alive, all[i + 1])
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return alive";

/// Releases worker id `ARGV[1]` if token `ARGV[2]` still holds it. Deletes the record of node
/// `ARGV[3]`.
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
        let mut command = script(ACQUIRE, &[&self.workers, &self.timestamps]);
        command.arg(first).arg(token).arg(lease_ms);
        command
    }

    pub(super) fn renew(&self, number: u16, token: &str, lease_ms: u64, until: u64) -> Cmd {
        let mut command = script(RENEW, &[&self.workers, &self.timestamps]);
        command.arg(number).arg(token).arg(lease_ms).arg(until);
        command
    }

    pub(super) fn heartbeat(&self, id: &str, valid_ms: u64, node: &str, own_stores: &[String]) -> Cmd {
        let mut command = script(HEARTBEAT, &[&self.nodes, &self.owners]);
        command.arg(id).arg(valid_ms).arg(node).arg(own_stores);
        command
    }

    pub(super) fn find_owner(&self, store: &str) -> Cmd {
        let mut command = script(FIND_OWNER, &[&self.nodes, &self.owners]);
        command.arg(store);
        command
    }

    pub(super) fn list(&self) -> Cmd {
        script(LIST_NODES, &[&self.nodes])
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
