//! The service's certificate, and those of its clients, which may be exchanged while it runs.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ServerSessionMemoryCache, WebPkiClientVerifier},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::config::{TlsFiles, TlsSection};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What clients may speak within TLS.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How many sessions are remembered, so that they can be resumed.
const SESSIONS: usize = 256;

/// Begins TLS with clients.
pub struct Tls {
    acceptor: RwLock<TlsAcceptor>,
    section: TlsSection,
    read: TlsFiles,
}

impl Tls {
    /// Reads the certificates, if there are any. Fails with a sentence. Blocks.
    pub fn open(section: &TlsSection) -> Result<Option<Self>, String> {
        let Some(read) = section.files()? else {
            return Ok(None);
        };
        let acceptor = RwLock::new(acceptor(&read)?);
        Ok(Some(Self { acceptor, section: section.clone(), read }))
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone();
        acceptor.accept(stream).await
    }

    /// Looks at the files for ever. New ones count for connections that begin from then on; what cannot be used is told once,
    /// and changes nothing.
    pub(super) async fn renew(&self) {
        let (mut known, mut before) = (self.read.clone(), Ok(Some(self.read.clone())));
        loop {
            tokio::time::sleep(LOOK).await;
            let section = self.section.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || section.files()).await else { continue };
            // Files are not exchanged at once: what differs from the last look may be half of a pair.
            let is_steady = found == before;
            before.clone_from(&found);
            match found {
                Ok(Some(files)) if is_steady && files != known => {
                    match acceptor(&files) {
                        Ok(acceptor) => {
                            *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
                            tracing::info!("the certificate was exchanged");
                        }
                        Err(problem) => {
                            tracing::warn!(problem, "the old certificate stays: the new one is of no use");
                        }
                    }
                    known = files;
                }
                _ => {}
            }
        }
    }
}

/// Fails with a sentence.
fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, String> {
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match files.client_authorities()? {
        Some(authorities) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
            config.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
        None => config.with_no_client_auth(),
    };
    let shown = rustls::sign::SingleCertAndKey::from(files.certified()?);
    let mut config = config.with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    // Its own: who was let in by other authorities is not to resume that.
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    Ok(TlsAcceptor::from(Arc::new(config)))
}
