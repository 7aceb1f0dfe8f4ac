use std::path::{Path, PathBuf};

use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::value::{Findings, section};

section! {
    /// `tls`: whether clients are served over TLS, and what the service shows them. Both or neither.
    TlsSection {
        /// PEM file with the service's certificate, and those that lead from it to an authority.
        cert: Option<PathBuf> = None,
        /// PEM file with the key of the certificate.
        key: Option<PathBuf> = None,
    }
    ignored []
}

/// What stands in the two files.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl TlsSection {
    pub(super) fn check(&self, findings: &mut Findings) {
        let pair = self.pair().and_then(|pair| pair.as_ref().map(Pair::certified).transpose());
        if let Err(problem) = pair {
            findings.problem("tls", problem);
        }
    }

    /// Whether clients are served over TLS.
    pub fn is_on(&self) -> bool {
        self.cert.is_some()
    }

    /// The files, if clients are served over TLS. Fails with a sentence. Blocks to read them.
    pub fn pair(&self) -> Result<Option<Pair>, String> {
        match (&self.cert, &self.key) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some(Pair { cert: read(cert)?, key: read(key)? })),
            (Some(_), None) => Err("`key` is missing".to_owned()),
            (None, Some(_)) => Err("`cert` is missing".to_owned()),
        }
    }
}

impl Pair {
    /// The certificate and its key, which belong together. Fails with a sentence that tells nothing of the key.
    pub fn certified(&self) -> Result<CertifiedKey, String> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.cert)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("`cert` is no PEM file: {error}"))?;
        if chain.is_empty() {
            return Err("`cert` holds no certificate".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| "`key` holds no private key in PEM".to_owned())?;
        CertifiedKey::from_der(chain, key, &ring::default_provider())
            .map_err(|error| format!("`cert` and `key` cannot be used together: {error}"))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "before the reactor has work, or on a thread that may block"
    )]
    let read = std::fs::read(path);
    read.map_err(|error| format!("{}: {error}", path.display()))
}
