use std::path::{Path, PathBuf};

use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::value::{Findings, section};

section! {
    /// `tls` and `grpc.tls`: TLS for clients, optionally with client certificates.
    TlsSection {
        /// PEM file with the certificate of the service, followed by its intermediate certificates.
        cert: Option<PathBuf> = None,
        /// PEM file with the private key of the certificate.
        key: Option<PathBuf> = None,
        /// PEM file with the CA certificates for clients: connections without a certificate from
        /// one of them are rejected. When not set, no client certificate is requested.
        client_ca: Option<PathBuf> = None,
    }
    ignored []
}

/// Contents of the files.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsPem {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl TlsSection {
    /// `path` is the name of the section.
    pub(super) fn check(&self, path: &str, findings: &mut Findings) {
        let usable = |files: &TlsPem| {
            files.certified_key()?;
            files.client_ca_store().map(drop)
        };
        if let Err(problem) = self.read_files().and_then(|files| files.as_ref().map(usable).transpose()) {
            findings.problem(path, problem);
        }
    }

    /// Whether TLS is enabled.
    pub fn is_enabled(&self) -> bool {
        self.cert.is_some()
    }

    /// Reads the files; `None` if TLS is off. Fails with a message. Blocks while it reads.
    pub fn read_files(&self) -> Result<Option<TlsPem>, String> {
        match (&self.cert, &self.key) {
            (None, None) if self.client_ca.is_some() => Err("`cert` and `key` are missing".to_owned()),
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => {
                let client_ca = self.client_ca.as_deref().map(read_file).transpose()?;
                Ok(Some(TlsPem { cert: read_file(cert)?, key: read_file(key)?, client_ca }))
            }
            (Some(_), None) => Err("`key` is missing".to_owned()),
            (None, Some(_)) => Err("`cert` is missing".to_owned()),
        }
    }
}

impl TlsPem {
    /// The certificate chain with its matching key. Fails with a message that reveals nothing about
    /// the key.
    pub fn certified_key(&self) -> Result<CertifiedKey, String> {
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

    /// CA certificates for clients, if client certificates are required. Fails with a message.
    pub fn client_ca_store(&self) -> Result<Option<RootCertStore>, String> {
        let Some(pem) = &self.client_ca else {
            return Ok(None);
        };
        let mut authorities = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate =
                certificate.map_err(|error| format!("`client_ca` is not a PEM file: {error}"))?;
            let added = authorities.add(certificate);
            added.map_err(|error| format!("`client_ca` contains an invalid CA certificate: {error}"))?;
        }
        if authorities.is_empty() {
            return Err("`client_ca` contains no certificate".to_owned());
        }
        Ok(Some(authorities))
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
