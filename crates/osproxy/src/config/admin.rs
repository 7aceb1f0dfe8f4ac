use std::net::{AddrParseError, SocketAddr};

use super::value::{Findings, section};

section! {
    /// `admin`: a second listener for operators, with health and metrics only.
    AdminSection {
        /// Address and port of the listener, such as `127.0.0.1:8889`; plain HTTP. When not set,
        /// there is no such listener. Danger: anyone who can reach this listener can read the
        /// metrics.
        listen: Option<String> = None,
    }
    ignored []
}

impl AdminSection {
    pub(super) fn check(&self, findings: &mut Findings) {
        if self.listen_address().is_err() {
            findings.problem("admin.listen", "must be an address and a port, such as 127.0.0.1:8889");
        }
    }

    /// Address of the admin listener, if there is one.
    pub fn listen_address(&self) -> Result<Option<SocketAddr>, AddrParseError> {
        self.listen.as_ref().map(|listen| super::parse_address(listen)).transpose()
    }
}
