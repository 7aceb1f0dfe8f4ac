use super::value::{Findings, section};

section! {
    /// `server`: the HTTP listener.
    ServerSection {
        /// Address and port, such as `127.0.0.1:8888`; port 0 takes a free one. When not set,
        /// `app.port` on 127.0.0.1.
        listen: Option<String> = None,
        /// How long it goes on serving after SIGTERM or SIGINT while `/health/ready` says that it is not ready, so that
        /// whoever distributes requests stops sending them, in seconds. When not set, 5 in a cluster, and 0 alone.
        drain_delay: Option<u64> = None,
        /// How long requests that are running may go on after that, in seconds.
        shutdown_grace: u64 = 30,
        /// How long a client may take to send the head of a request, in seconds.
        header_timeout: u64 = 30,
        /// How long a client may send nothing in the middle of a body, in seconds.
        body_timeout: u64 = 60,
        /// Most connections at the same time; further ones wait to be accepted.
        max_connections: u16 = 4096,
    }
    ignored []
}

/// Longest time-out, in seconds: a day.
const MAX_TIMEOUT: u64 = 24 * 60 * 60;

impl ServerSection {
    pub(super) fn check(&self, findings: &mut Findings) {
        for (name, seconds, min) in [
            ("drain_delay", self.drain_delay.unwrap_or(0), 0),
            ("shutdown_grace", self.shutdown_grace, 0),
            ("header_timeout", self.header_timeout, 1),
            ("body_timeout", self.body_timeout, 1),
        ] {
            if !(min..=MAX_TIMEOUT).contains(&seconds) {
                findings.problem(
                    &format!("server.{name}"),
                    format_args!("must be {min} to {MAX_TIMEOUT} seconds"),
                );
            }
        }
        if self.max_connections == 0 {
            findings.problem("server.max_connections", "must be at least 1");
        }
    }
}
