use super::value::{Findings, section};

section! {
    /// `limits`: how much is done at the same time. What goes beyond that is refused at once; only for memory a transfer waits,
    /// for up to 10 seconds.
    LimitsSection {
        /// Most requests that are worked on at the same time, those that send content aside. Half of them at most may be others
        /// than GET and HEAD.
        max_requests: u32 = 1024,
        /// Most bodies with content that come in and go out at the same time, together.
        max_transfers: u32 = 1024,
        /// Most memory, in bytes, that buffers of all transfers may take together. A transfer counts as 1 MiB, and as up to 10 MiB
        /// when the length of its content is not told before it comes and a store on other machines is enabled.
        max_buffer: u64 = 1 << 30,
        /// How many of them may be of one tenant; when not set, all.
        max_tenant_transfers: Option<u32> = None,
        /// Most uploads of a tenant that are not complete, together with links to upload that nobody has used yet.
        max_tenant_uploads: u32 = 1_000_000,
        /// How many transactions, and contents that have come, may wait for the database and the disk when an upload is to be
        /// created, and, half as many again, when content is to be sent: what is begun then would only make all wait longer.
        max_backlog: u32 = 256,
        /// Most requests a second from one address, or from one IPv6 network of 64 bits; when not set, as many as come.
        /// Danger: behind a proxy that is not among `server.trusted_proxies` all clients have its address.
        max_address_rate: Option<u32> = None,
    }
    ignored []
}

/// More than any machine does.
const MAX: u32 = 1_000_000;
/// So that a transfer of any kind fits in, in bytes.
const MIN_BUFFER: u64 = 16 << 20;
/// More than any machine has, in bytes.
const MAX_BUFFER: u64 = 1 << 43;

impl LimitsSection {
    pub(super) fn check(&self, findings: &mut Findings) {
        for (name, value) in [
            ("max_requests", Some(self.max_requests)),
            ("max_transfers", Some(self.max_transfers)),
            ("max_tenant_transfers", self.max_tenant_transfers),
            ("max_tenant_uploads", Some(self.max_tenant_uploads)),
            ("max_backlog", Some(self.max_backlog)),
            ("max_address_rate", self.max_address_rate),
        ] {
            if value.is_some_and(|value| !(1..=MAX).contains(&value)) {
                findings.problem(&format!("limits.{name}"), format_args!("must be 1 to {MAX}"));
            }
        }
        if !(MIN_BUFFER..=MAX_BUFFER).contains(&self.max_buffer) {
            let what = format_args!("must be {MIN_BUFFER} (16 MiB) to {MAX_BUFFER} (8 TiB) bytes");
            findings.problem("limits.max_buffer", what);
        }
    }
}
