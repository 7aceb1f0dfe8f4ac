use std::path::PathBuf;

use osproxy_http::listener::TlsFiles;

use super::value::{Findings, section};

section! {
    /// `tls` and `grpc.tls`: TLS for clients, optionally with client certificates.
    TlsSection {
        /// PEM file with the certificate of the service, followed by its intermediate certificates.
        cert: Option<PathBuf> = None,
        /// PEM file with the private key of the certificate.
        key: Option<PathBuf> = None,
        /// PEM file with the CA certificates for clients. Connections without a client
        /// certificate issued by one of these CAs are rejected. When not set, no client certificate
        /// is requested.
        client_ca: Option<PathBuf> = None,
    }
    ignored []
}

impl TlsSection {
    /// Checks the files; `path` is the name of the section in messages.
    pub(super) fn check(&self, path: &str, findings: &mut Findings) {
        if let Err(problem) = self.files().and_then(|files| files.map_or(Ok(()), |files| files.check())) {
            findings.problem(path, problem);
        }
    }

    /// Whether TLS is enabled.
    pub fn is_enabled(&self) -> bool {
        self.cert.is_some()
    }

    /// Returns the paths of the files; `None` if TLS is off. Fails with a message if a setting is
    /// missing.
    pub fn files(&self) -> Result<Option<TlsFiles>, String> {
        match (&self.cert, &self.key) {
            (None, None) if self.client_ca.is_some() => Err("`cert` and `key` are missing".to_owned()),
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => {
                Ok(Some(TlsFiles { cert: cert.clone(), key: key.clone(), client_ca: self.client_ca.clone() }))
            }
            (Some(_), None) => Err("`key` is missing".to_owned()),
            (None, Some(_)) => Err("`cert` is missing".to_owned()),
        }
    }
}
