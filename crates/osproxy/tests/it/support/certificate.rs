use std::path::{Path, PathBuf};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Service;

/// A certificate of this machine's for itself, and its key.
pub struct Certificate {
    pub cert: String,
    pub key: String,
}

impl Certificate {
    pub fn new() -> Self {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Self { cert: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    /// Puts both into files of this folder, as those who exchange certificates do: one after the other.
    pub fn write(&self, folder: &Path) -> [PathBuf; 2] {
        let files = ["cert.pem", "key.pem"].map(|name| folder.join(name));
        std::fs::write(&files[0], &self.cert).unwrap();
        std::fs::write(&files[1], &self.key).unwrap();
        files
    }

    /// As it goes over the wire.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap()
    }

    /// Connects to a service that has this certificate; `None` if it has another one.
    pub async fn connect(&self, service: &Service, protocol: &[u8]) -> Option<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let mut config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(service.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.ok()
    }
}
