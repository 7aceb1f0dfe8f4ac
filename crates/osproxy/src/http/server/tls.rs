//! TLS with certificates that are reloaded when their files change.

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

use crate::config::{TlsPem, TlsSection};

/// Interval between checks of the files.
const LOOK: Duration = Duration::from_secs(2);

/// Application protocols, by preference.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Number of TLS sessions cached for resumption.
const SESSIONS: usize = 256;

/// Accepts TLS connections.
pub struct Tls {
    acceptor: RwLock<TlsAcceptor>,
    section: TlsSection,
    files: TlsPem,
}

impl Tls {
    /// Reads the certificates. Returns `None` if TLS is not configured; fails with a message for
    /// the operator. Blocks.
    pub fn load(section: &TlsSection) -> Result<Option<Self>, String> {
        let Some(read) = section.read_files()? else {
            return Ok(None);
        };
        let acceptor = RwLock::new(acceptor(&read)?);
        Ok(Some(Self { acceptor, section: section.clone(), files: read }))
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone();
        acceptor.accept(stream).await
    }

    /// Checks the files periodically; never returns. New certificates apply to new connections.
    /// Invalid ones are logged once, and the old ones stay in use.
    pub(super) async fn reload_on_change(&self) {
        let (mut loaded, mut previous) = (self.files.clone(), Ok(Some(self.files.clone())));
        loop {
            tokio::time::sleep(LOOK).await;
            let section = self.section.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || section.read_files()).await else { continue };
            // Certificate and key are not replaced atomically: reload only if the files are the
            // same in two checks in a row.
            let is_steady = found == previous;
            previous.clone_from(&found);
            match found {
                Ok(Some(files)) if is_steady && files != loaded => {
                    match acceptor(&files) {
                        Ok(acceptor) => {
                            *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
                            tracing::info!("reloaded the TLS certificate");
                        }
                        Err(problem) => {
                            tracing::warn!(
                                problem,
                                "cannot use the new TLS certificate; keeping the old one"
                            );
                        }
                    }
                    loaded = files;
                }
                _ => {}
            }
        }
    }
}

/// Builds an acceptor. Fails with a message for the operator.
fn acceptor(files: &TlsPem) -> Result<TlsAcceptor, String> {
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match files.client_ca_store()? {
        Some(authorities) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
            config.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
        None => config.with_no_client_auth(),
    };
    let resolver = rustls::sign::SingleCertAndKey::from(files.certified_key()?);
    let mut config = config.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    // A new cache, so that a client that was accepted under other certificate authorities cannot
    // resume its session.
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    Ok(TlsAcceptor::from(Arc::new(config)))
}
