use std::path::{Path, PathBuf};

use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::value::{Findings, section};

section! {
    /// `tls` and `grpc.tls`: whether clients are served over TLS, and what they and the service show each other.
    TlsSection {
        /// PEM file with the service's certificate, and those that lead from it to an authority.
        cert: Option<PathBuf> = None,
        /// PEM file with the key of the certificate.
        key: Option<PathBuf> = None,
        /// PEM file with authorities of clients: whoever shows no certificate that leads to one of them is not let in. When not
        /// set, nobody is asked for one.
        client_ca: Option<PathBuf> = None,
    }
    ignored []
}

/// What stands in the files.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsFiles {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl TlsSection {
    /// `path`: which section it is.
    pub(super) fn check(&self, path: &str, findings: &mut Findings) {
        let usable = |files: &TlsFiles| {
            files.certified()?;
            files.client_authorities().map(drop)
        };
        if let Err(problem) = self.files().and_then(|files| files.as_ref().map(usable).transpose()) {
            findings.problem(path, problem);
        }
    }

    /// Whether clients are served over TLS.
    pub fn is_on(&self) -> bool {
        self.cert.is_some()
    }

    /// The files, if clients are served over TLS. Fails with a sentence. Blocks to read them.
    pub fn files(&self) -> Result<Option<TlsFiles>, String> {
        match (&self.cert, &self.key) {
            (None, None) if self.client_ca.is_some() => Err("`cert` and `key` are missing".to_owned()),
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => {
                let client_ca = self.client_ca.as_deref().map(read).transpose()?;
                Ok(Some(TlsFiles { cert: read(cert)?, key: read(key)?, client_ca }))
            }
            (Some(_), None) => Err("`key` is missing".to_owned()),
            (None, Some(_)) => Err("`cert` is missing".to_owned()),
        }
    }
}

impl TlsFiles {
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

    /// The authorities of clients, if they must show certificates. Fails with a sentence.
    pub fn client_authorities(&self) -> Result<Option<RootCertStore>, String> {
        let Some(pem) = &self.client_ca else {
            return Ok(None);
        };
        let mut authorities = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| format!("`client_ca` is no PEM file: {error}"))?;
            let added = authorities.add(certificate);
            added.map_err(|error| format!("`client_ca` holds what is no authority: {error}"))?;
        }
        if authorities.is_empty() {
            return Err("`client_ca` holds no certificate".to_owned());
        }
        Ok(Some(authorities))
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
