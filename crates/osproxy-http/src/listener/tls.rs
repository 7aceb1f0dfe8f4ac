//! TLS with certificates that are reloaded when their files change.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ServerSessionMemoryCache, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Interval between checks of the certificate files for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Application protocols, in order of preference.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Maximum number of TLS sessions that are cached for resumption.
const MAX_SESSIONS: usize = 256;

/// Paths of the PEM files that configure TLS for a listener.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificate of the service, followed by its intermediate certificates.
    pub cert: PathBuf,
    /// Private key of the certificate.
    pub key: PathBuf,
    /// CA certificates for checking client certificates. `None` means that clients need no
    /// certificate.
    pub client_ca: Option<PathBuf>,
}

/// Contents of the PEM files.
#[derive(Clone, PartialEq, Eq)]
struct TlsPem {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl TlsFiles {
    /// Checks that the files can be used. Blocks. The error is a message for the operator.
    pub fn check(&self) -> Result<(), String> {
        let pem = self.read()?;
        pem.certified_key()?;
        pem.client_ca_store().map(drop)
    }

    fn read(&self) -> Result<TlsPem, String> {
        let client_ca = self.client_ca.as_deref().map(read_file).transpose()?;
        Ok(TlsPem { cert: read_file(&self.cert)?, key: read_file(&self.key)?, client_ca })
    }
}

impl TlsPem {
    /// Parses the certificate chain and its key, and checks that they match. The error message
    /// reveals nothing about the key.
    fn certified_key(&self) -> Result<CertifiedKey, String> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.cert)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("`cert` is not a PEM file: {error}"))?;
        if chain.is_empty() {
            return Err("`cert` contains no certificate".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| "`key` contains no private key in PEM format".to_owned())?;
        CertifiedKey::from_der(chain, key, &ring::default_provider())
            .map_err(|error| format!("`cert` and `key` do not match: {error}"))
    }

    /// Parses the CA certificates for clients. Returns `None` if clients need no certificate.
    fn client_ca_store(&self) -> Result<Option<RootCertStore>, String> {
        let Some(pem) = &self.client_ca else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate =
                certificate.map_err(|error| format!("`client_ca` is not a PEM file: {error}"))?;
            let added = roots.add(certificate);
            added.map_err(|error| format!("`client_ca` contains an invalid CA certificate: {error}"))?;
        }
        if roots.is_empty() {
            return Err("`client_ca` contains no certificate".to_owned());
        }
        Ok(Some(roots))
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "before the reactor has work, or on a thread that may block"
    )]
    let read = std::fs::read(path);
    read.map_err(|error| format!("{}: {error}", path.display()))
}

/// Accepts TLS connections.
pub struct Tls {
    acceptor: RwLock<TlsAcceptor>,
    files: TlsFiles,
    /// Contents of the files when they were first loaded.
    initial: TlsPem,
}

impl Tls {
    /// Reads the files. Blocks. The error is a message for the operator.
    pub fn load(files: TlsFiles) -> Result<Self, String> {
        let initial = files.read()?;
        let acceptor = RwLock::new(acceptor(&initial)?);
        Ok(Self { acceptor, files, initial })
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone();
        acceptor.accept(stream).await
    }

    /// Checks the files periodically; never returns. New connections use the new certificates. If
    /// the new certificates cannot be used, logs a warning once and keeps the old certificates.
    /// Ignores changes as long as a file cannot be read.
    pub(super) async fn reload_on_change(&self) {
        let (mut loaded, mut previous) = (self.initial.clone(), Ok(self.initial.clone()));
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let files = self.files.clone();
            let Ok(current) = tokio::task::spawn_blocking(move || files.read()).await else { continue };
            // The files are not replaced atomically. Reload only if two checks in a row find the
            // same contents.
            let is_stable = current == previous;
            previous.clone_from(&current);
            match current {
                Ok(pem) if is_stable && pem != loaded => {
                    match acceptor(&pem) {
                        Ok(acceptor) => {
                            *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
                            tracing::info!("reloaded the TLS certificate");
                        }
                        Err(error) => {
                            tracing::warn!(error, "cannot use the new TLS certificate; keeping the old one");
                        }
                    }
                    loaded = pem;
                }
                _ => {}
            }
        }
    }
}

/// Builds an acceptor. The error is a message for the operator.
fn acceptor(pem: &TlsPem) -> Result<TlsAcceptor, String> {
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match pem.client_ca_store()? {
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            config.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
        None => config.with_no_client_auth(),
    };
    let resolver = SingleCertAndKey::from(pem.certified_key()?);
    let mut config = config.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    // Use a new session cache. With the old cache, a client that only the previous certificate
    // authorities accepted could resume its session.
    config.session_storage = ServerSessionMemoryCache::new(MAX_SESSIONS);
    Ok(TlsAcceptor::from(Arc::new(config)))
}
