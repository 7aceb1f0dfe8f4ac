//! The service's certificate, which may be exchanged while it runs.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::config::{Pair, TlsSection};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What clients may speak within TLS.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Begins TLS with clients.
pub struct Tls {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
    section: TlsSection,
    read: Pair,
}

/// The certificate that clients are shown.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Tls {
    /// Reads the certificate, if there is one. Fails with a sentence. Blocks.
    pub fn open(section: &TlsSection) -> Result<Option<Self>, String> {
        let Some(read) = section.pair()? else {
            return Ok(None);
        };
        let shown = Arc::new(Shown(RwLock::new(Arc::new(read.certified()?))));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Some(Self { acceptor, shown, section: section.clone(), read }))
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// Looks at the files for ever. A new pair counts for connections that begin from then on; what is no pair is told once,
    /// and changes nothing.
    pub(super) async fn renew(&self) {
        let (mut known, mut before) = (self.read.clone(), Ok(Some(self.read.clone())));
        loop {
            tokio::time::sleep(LOOK).await;
            let section = self.section.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || section.pair()).await else { continue };
            // Two files are not exchanged at once: what differs from the last look may be half of a pair.
            let is_steady = found == before;
            before.clone_from(&found);
            match found {
                Ok(Some(pair)) if is_steady && pair != known => {
                    match pair.certified() {
                        Ok(certified) => {
                            *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) =
                                Arc::new(certified);
                            tracing::info!("the certificate was exchanged");
                        }
                        Err(problem) => {
                            tracing::warn!(problem, "the old certificate stays: the new one is of no use");
                        }
                    }
                    known = pair;
                }
                _ => {}
            }
        }
    }
}
