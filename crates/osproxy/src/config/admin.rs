use std::net::{AddrParseError, SocketAddr};

use super::value::{Findings, section};

section! {
    /// `admin`: a second listener, for those who look after the service.
    AdminSection {
        /// Address and port, such as `127.0.0.1:8889`, where it tells how it is, over plain HTTP. When not set, there is none.
        /// Danger: it asks nobody who they are.
        listen: Option<String> = None,
    }
    ignored []
}

impl AdminSection {
    pub(super) fn check(&self, findings: &mut Findings) {
        if self.address().is_err() {
            findings.problem("admin.listen", "must be an address and a port, such as 127.0.0.1:8889");
        }
    }

    /// Where to listen, if there.
    pub fn address(&self) -> Result<Option<SocketAddr>, AddrParseError> {
        self.listen.as_ref().map(|listen| super::address(listen)).transpose()
    }
}
