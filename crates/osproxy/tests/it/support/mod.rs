//! Helpers that the tests share: a running service in its own folder, clients, servers, proxies,
//! and content.

mod api;
mod blocking_proxy;
mod browser;
mod certificate;
mod cgroup;
mod database;
mod faulty_proxy;
mod grpc;
mod h2;
mod hanging_calls;
mod name_server;
mod nginx;
mod node;
mod objects;
mod page;
mod protocol;
mod proxy;
mod random;
mod raw;
mod receiver;
mod s3;
mod service;
mod store;
mod trace;
pub mod tus;

use std::time::{Duration, Instant};

pub use api::{Api, expect_json, expect_problem, expect_v0_error};
pub use blocking_proxy::{BlockMode, start_blocking_proxy};
pub use browser::Browser;
pub use certificate::Certificate;
pub use cgroup::MemoryCgroup;
pub use database::{Database, connect, host_and_port, redis_url};
pub use faulty_proxy::{Fault, FaultyProxy};
pub use grpc::{Grpc, MESSAGE, error_reason, file_messages, part_messages};
pub use h2::Http2Client;
pub use hanging_calls::HangingCalls;
pub use name_server::NameServer;
pub use nginx::Nginx;
pub use node::TestNode;
pub use page::{Page, assert_is_a_test};
pub use protocol::{CallError, Client, FileInfo, Protocol, UploadSpec};
pub use proxy::{Proxy, ProxyMode};
pub use random::Random;
pub use raw::RawConnection;
pub use receiver::{Answer, Received, Receiver};
pub use s3::{S3Answer, S3Key, S3Request, send as send_s3};
pub use service::{Service, command, spawn_failing};
pub use store::{Store, StoreServer};
pub use trace::system_calls;

use md5::{Digest, Md5};

/// Maximum wait for an expected event on a busy machine: twice the default lease of a task. So the
/// tasks of a killed node become free within this time.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The amount of work of a long test: `usual`, or `nightly` if `OSPROXY_TEST_NIGHTLY` is set.
pub fn amount<T>(usual: T, nightly: T) -> T {
    if std::env::var_os("OSPROXY_TEST_NIGHTLY").is_some() { nightly } else { usual }
}

/// Waits until `condition` returns a value.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Pseudo-random bytes that differ between seeds.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The md5 of content, in hexadecimal as in API v0.
pub fn md5_hex(content: &[u8]) -> String {
    hex::encode(Md5::digest(content))
}

/// The peak memory of a process so far, in bytes.
pub fn peak_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}
