use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

/// A self-signed certificate, and the key of the certificate.
#[derive(Clone)]
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

    /// Creates a certificate that a new CA has issued. Returns the certificate of the CA as PEM, too.
    pub fn of_private_ca() -> (String, Self) {
        let mut of_ca = CertificateParams::new(Vec::new()).unwrap();
        of_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = of_ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(of_ca, ca_key);
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap().pem();
        (ca, Self { cert, key: key.serialize_pem() })
    }

    /// Returns an acceptor for a TLS server that has this certificate.
    pub fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.der()], key)
            .unwrap();
        TlsAcceptor::from(std::sync::Arc::new(config))
    }

    /// Writes the certificate into a folder, and then the key. Tools for certificate renewal also
    /// write one file after the other.
    pub fn write(&self, folder: &Path) -> [PathBuf; 2] {
        let files = ["cert.pem", "key.pem"].map(|name| folder.join(name));
        std::fs::write(&files[0], &self.cert).unwrap();
        std::fs::write(&files[1], &self.key).unwrap();
        files
    }

    /// The certificate as DER.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap()
    }

    /// Runs the shipped script, which creates a certificate for these names in the folder.
    pub fn from_script(folder: &Path, names: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/make-certificate");
        let status = std::process::Command::new(script).arg(folder).args(names).status().unwrap();
        assert!(status.success());
        let [cert, key] =
            ["cert.pem", "key.pem"].map(|name| std::fs::read_to_string(folder.join(name)).unwrap());
        Self { cert, key }
    }

    /// Connects to a TLS server. Returns `None` if the server does not have this certificate.
    pub async fn connect(&self, address: SocketAddr, protocol: &[u8]) -> Option<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let mut config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.ok()
    }

    /// Starts a listener without TLS, which forwards to a TLS server that has this certificate.
    /// Returns the address of the listener.
    pub async fn start_tunnel(self, address: SocketAddr, protocol: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let entrance = listener.local_addr().unwrap();
        let certificate = std::sync::Arc::new(self);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let certificate = certificate.clone();
                tokio::spawn(async move {
                    if let Some(mut server) = certificate.connect(address, protocol).await {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        entrance
    }
}
