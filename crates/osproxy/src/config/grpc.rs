use std::net::{AddrParseError, SocketAddr};

use super::{
    tls::TlsSection,
    value::{Findings, section},
};

section! {
    /// `grpc`: where gRPC is served.
    GrpcSection {
        /// Address and port of a separate listener for gRPC, such as `127.0.0.1:8890`. When not
        /// set, gRPC is served on the HTTP listener.
        listen: Option<String> = None,
        /// TLS of the separate gRPC listener; independent of `tls`.
        tls: TlsSection = TlsSection::default(),
    }
    ignored []
}

impl GrpcSection {
    pub(super) fn check(&self, findings: &mut Findings) {
        if self.listen_address().is_err() {
            findings.problem("grpc.listen", "must be an address and a port, such as 127.0.0.1:8890");
        }
        self.tls.check("grpc.tls", findings);
        if self.listen.is_none() && self.tls.is_enabled() {
            findings.problem(
                "grpc.tls",
                "has no effect without `grpc.listen`; set `grpc.listen`, or remove `grpc.tls`",
            );
        }
    }

    /// Address of the separate gRPC listener, if there is one.
    pub fn listen_address(&self) -> Result<Option<SocketAddr>, AddrParseError> {
        self.listen.as_ref().map(|listen| super::parse_address(listen)).transpose()
    }
}
