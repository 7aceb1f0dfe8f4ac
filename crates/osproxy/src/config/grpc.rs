use std::net::{AddrParseError, SocketAddr};

use super::{
    tls::TlsSection,
    value::{Findings, section},
};

section! {
    /// `grpc`: where gRPC is served.
    GrpcSection {
        /// Address and port, such as `127.0.0.1:8890`, of a listener for gRPC alone. When not set, it is served where HTTP is.
        listen: Option<String> = None,
        /// TLS of that listener, which is not that of the other one.
        tls: TlsSection = TlsSection::default(),
    }
    ignored []
}

impl GrpcSection {
    pub(super) fn check(&self, findings: &mut Findings) {
        if self.address().is_err() {
            findings.problem("grpc.listen", "must be an address and a port, such as 127.0.0.1:8890");
        }
        self.tls.check("grpc.tls", findings);
        if self.listen.is_none() && self.tls.is_on() {
            findings.problem("grpc.tls", "is of the listener that `grpc.listen` names, and there is none");
        }
    }

    /// Where to listen, if not where HTTP is served.
    pub fn address(&self) -> Result<Option<SocketAddr>, AddrParseError> {
        self.listen.as_ref().map(|listen| super::address(listen)).transpose()
    }
}
