use super::value::{Findings, section};

section! {
    /// `limits`: how much the service does at the same time. Requests beyond a limit are rejected
    /// immediately. The exception is buffer memory: a transfer waits up to 10 seconds for free
    /// memory.
    LimitsSection {
        /// Concurrent requests. Uploads of content, and gRPC calls that transfer content, count
        /// towards `max_transfers` instead. At most half of this number can be requests that may
        /// change something.
        max_requests: u32 = 1024,
        /// Concurrent transfers of content, uploads and downloads together.
        max_transfers: u32 = 1024,
        /// Memory for the buffers of all transfers together, in bytes. A transfer takes 1 MiB; up
        /// to 10 MiB if its length is not known in advance and a remote store is enabled.
        max_buffer_memory | max_buffer: u64 as bytes = 1 << 30,
        /// Memory for the content of small files (up to 64 KiB) that are read often, in bytes. 0
        /// turns this cache off.
        max_cached_content: u64 as bytes = 16 << 20,
        /// Concurrent transfers of one tenant. When not set, `max_transfers`.
        max_tenant_transfers: Option<u32> = None,
        /// Incomplete uploads of one tenant, including upload links that have not been used yet.
        max_tenant_uploads: u32 = 1_000_000,
        /// Upload grants of one tenant that are neither expired nor revoked.
        max_tenant_upload_grants: u32 = 10_000,
        /// Backpressure: new uploads are rejected while this many transactions and received bodies
        /// wait for the database or the disk. Parts of existing uploads are rejected at one and a
        /// half times this number.
        max_pending_writes | max_backlog: u32 = 256,
        /// Requests per second from one address, or from one IPv6 network of 64 bits. When not set,
        /// unlimited. Danger: behind a proxy that is missing in `server.trusted_proxies`, all
        /// clients share the address of the proxy.
        max_address_rate: Option<u32> = None,
    }
    ignored []
}

/// Largest allowed value of each count and rate.
const MAX: u32 = 1_000_000;
/// Smallest allowed buffer memory, in bytes. A transfer of any kind must fit into it.
const MIN_BUFFER: u64 = 16 << 20;
/// Largest allowed buffer memory, in bytes: more than any machine has.
const MAX_BUFFER: u64 = 1 << 43;

impl LimitsSection {
    pub(super) fn check(&self, findings: &mut Findings) {
        for (name, value) in [
            ("max_requests", Some(self.max_requests)),
            ("max_transfers", Some(self.max_transfers)),
            ("max_tenant_transfers", self.max_tenant_transfers),
            ("max_tenant_uploads", Some(self.max_tenant_uploads)),
            ("max_tenant_upload_grants", Some(self.max_tenant_upload_grants)),
            ("max_pending_writes", Some(self.max_pending_writes)),
            ("max_address_rate", self.max_address_rate),
        ] {
            if value.is_some_and(|value| !(1..=MAX).contains(&value)) {
                findings.problem(&format!("limits.{name}"), format_args!("must be 1 to {MAX}"));
            }
        }
        if !(MIN_BUFFER..=MAX_BUFFER).contains(&self.max_buffer_memory) {
            let what = "must be 16MiB to 8TiB";
            findings.problem("limits.max_buffer_memory", what);
        }
    }
}
