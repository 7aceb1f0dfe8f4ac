//! Finds out why an operation of a remote store failed.

use std::{error::Error as StdError, fmt, io, iter};

use rustls::{CertificateError, Error as TlsError};

use super::ErrorResponse;
use crate::{Error, ErrorKind, layers::TimedOut};

/// The reason why an operation of a remote store failed, as far as the error shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diagnosis {
    /// The host name cannot be resolved.
    HostNotFound,
    /// The connection was refused: nothing listens on the port.
    ConnectionRefused,
    /// There is no route to the host, or a firewall blocks the connection.
    Unreachable,
    /// The store did not answer in time.
    TimedOut,
    /// The certificate is signed by an authority that osproxy does not trust.
    UntrustedCertificate,
    /// The certificate is for another host name.
    CertificateNameMismatch,
    /// The certificate is not yet or no longer valid, according to the clock of this machine.
    CertificateNotValidNow,
    /// The server does not speak TLS.
    NotTls,
    /// The TLS handshake failed for another reason.
    TlsFailed,
    /// The connection was closed without a response.
    Closed,
    /// The response is not HTTP.
    NotHttp,
    /// The server speaks HTTP, but is not an object store.
    NotAStore,
    /// The proxy refused the request.
    Proxy,
    /// No credentials were configured, and none were found.
    NoCredentials,
    /// The store does not know the access key, or has disabled it.
    UnknownAccessKey,
    /// The signature does not match the key: the secret is wrong.
    WrongSecret,
    /// The token of the temporary key is invalid or belongs to another key.
    WrongToken,
    /// The temporary key has expired.
    Expired,
    /// The clocks of client and store differ too much for a signature to be valid.
    ClockSkewed,
    /// The access key lacks the permission for this operation.
    Denied,
    /// The store refused the request and gave no reason, for example in a response to HEAD, which
    /// has no body.
    Refused,
    /// The bucket does not exist.
    BucketNotFound,
    /// The bucket belongs to another account.
    BucketTaken,
    /// The bucket is in another region, or the request was signed for the wrong region.
    WrongRegion,
    /// The store cannot process the request now.
    Busy,
    /// The store is full.
    Full,
    /// Another reason.
    Other,
}

impl Diagnosis {
    /// Diagnoses an error.
    pub fn of(error: &Error) -> Self {
        if let Some(response) = ErrorResponse::of(error) {
            return Self::of_response(response, error);
        }
        let Some(source) = error.source() else {
            return Self::Other;
        };
        let causes: Vec<_> = iter::successors(Some(source), |&cause| cause.source()).collect();
        let first = |diagnose: fn(&(dyn StdError + 'static)) -> Option<Self>| {
            causes.iter().find_map(|&cause| diagnose(cause))
        };
        // A failed connection causes a chain of errors. Run each check on the whole chain, and the
        // most precise check first.
        first(of_own_error)
            .or_else(|| first(of_dns_error))
            .or_else(|| first(of_io_error))
            .or_else(|| first(of_http_error))
            .unwrap_or(Self::Other)
    }

    fn of_response(response: &ErrorResponse, error: &Error) -> Self {
        match (response.status, response.code.as_str()) {
            (_, "InvalidAccessKeyId" | "InvalidSecretId" | "InvalidClientTokenId" | "UserDisable") => {
                Self::UnknownAccessKey
            }
            (_, "SignatureDoesNotMatch") => Self::WrongSecret,
            (_, "InvalidToken" | "InvalidSecurityToken" | "SecurityTokenMalformed") => Self::WrongToken,
            (_, "ExpiredToken" | "SecurityTokenExpired" | "TokenRefreshRequired" | "RequestIsExpired") => {
                Self::Expired
            }
            (_, "RequestTimeTooSkewed" | "RequestExpired" | "RequestNotYetValid") => Self::ClockSkewed,
            (_, "NoSuchBucket") => Self::BucketNotFound,
            (_, "BucketAlreadyExists") => Self::BucketTaken,
            (301 | 307, _)
            | (
                _,
                "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException"
                | "InvalidLocationConstraint"
                | "InvalidRegion"
                | "PermanentRedirect"
                | "TemporaryRedirect",
            ) => Self::WrongRegion,
            // Aliyun's response for buckets in another region.
            (403, "AccessDenied") if response.message.contains("specified endpoint") => Self::WrongRegion,
            (400 | 401 | 403, "") => Self::Refused,
            (401 | 403, _) => Self::Denied,
            (407, _) => Self::Proxy,
            _ if error.kind == ErrorKind::Full => Self::Full,
            _ if error.retryable => Self::Busy,
            _ => Self::Other,
        }
    }
}

/// Diagnoses an error type that this crate defines.
fn of_own_error(cause: &(dyn StdError + 'static)) -> Option<Diagnosis> {
    if let Some(NotAStore { status }) = cause.downcast_ref() {
        return Some(match status {
            407 => Diagnosis::Proxy,
            // A proxy or load balancer answered in place of an unavailable store.
            500.. => Diagnosis::Busy,
            _ => Diagnosis::NotAStore,
        });
    }
    if let Some(SigningFailed(kind)) = cause.downcast_ref() {
        // All other kinds of errors come from the lookup of credentials. They mean that no usable
        // credentials were found.
        let is_request = *kind == reqsign_core::ErrorKind::RequestInvalid;
        return Some(if is_request { Diagnosis::Other } else { Diagnosis::NoCredentials });
    }
    if cause.is::<BucketNotFound>() {
        return Some(Diagnosis::BucketNotFound);
    }
    cause.is::<TimedOut>().then_some(Diagnosis::TimedOut)
}

/// The DNS error has no public type, so its text is compared.
fn of_dns_error(cause: &(dyn StdError + 'static)) -> Option<Diagnosis> {
    (cause.to_string() == "dns error").then_some(Diagnosis::HostNotFound)
}

fn of_io_error(cause: &(dyn StdError + 'static)) -> Option<Diagnosis> {
    let error: &io::Error = cause.downcast_ref()?;
    // `source()` skips the error that an `io::Error` wraps. The wrapped error may be an `io::Error`
    // too.
    if let Some(inner) = error.get_ref() {
        let tls = inner.downcast_ref().map(of_tls_error);
        if let Some(diagnosis) = tls.or_else(|| of_io_error(inner)) {
            return Some(diagnosis);
        }
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(Diagnosis::ConnectionRefused),
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::PermissionDenied => Some(Diagnosis::Unreachable),
        io::ErrorKind::TimedOut => Some(Diagnosis::TimedOut),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Some(Diagnosis::Closed),
        _ => None,
    }
}

fn of_tls_error(error: &TlsError) -> Diagnosis {
    match error {
        TlsError::InvalidMessage(_) => Diagnosis::NotTls,
        TlsError::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer | CertificateError::BadSignature | CertificateError::Other(_) => {
                Diagnosis::UntrustedCertificate
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Diagnosis::CertificateNameMismatch
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Diagnosis::CertificateNotValidNow,
            _ => Diagnosis::TlsFailed,
        },
        _ => Diagnosis::TlsFailed,
    }
}

fn of_http_error(cause: &(dyn StdError + 'static)) -> Option<Diagnosis> {
    if let Some(error) = cause.downcast_ref::<reqwest::Error>()
        && error.is_timeout()
    {
        return Some(Diagnosis::TimedOut);
    }
    if let Some(error) = cause.downcast_ref::<hyper::Error>() {
        if error.is_parse() {
            return Some(Diagnosis::NotHttp);
        }
        if error.is_incomplete_message() || error.is_closed() {
            return Some(Diagnosis::Closed);
        }
    }
    cause.to_string().starts_with("tunnel error").then_some(Diagnosis::Proxy)
}

/// The server is not an object store.
#[derive(Debug)]
pub(super) struct NotAStore {
    pub(super) status: u16,
}

impl fmt::Display for NotAStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}, and the response is not from an object store", self.status)
    }
}

impl StdError for NotAStore {}

/// A request could not be signed. Only the kind of the error is kept, because the message may
/// contain secrets.
#[derive(Debug)]
pub(super) struct SigningFailed(pub(super) reqsign_core::ErrorKind);

impl fmt::Display for SigningFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot sign the request: {}", self.0)
    }
}

impl StdError for SigningFailed {}

/// Names of the buckets that do not exist.
#[derive(Debug)]
pub(super) struct BucketNotFound(pub(super) String);

impl fmt::Display for BucketNotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for BucketNotFound {}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn error_responses_are_diagnosed() {
        let document = |code: &str, message: &str| {
            format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>")
        };
        for (status, text, diagnosis) in [
            (403, document("InvalidAccessKeyId", ""), Diagnosis::UnknownAccessKey),
            (403, document("SignatureDoesNotMatch", ""), Diagnosis::WrongSecret),
            (400, document("InvalidToken", ""), Diagnosis::WrongToken),
            (400, document("ExpiredToken", ""), Diagnosis::Expired),
            (403, document("SecurityTokenExpired", ""), Diagnosis::Expired),
            (403, document("RequestTimeTooSkewed", ""), Diagnosis::ClockSkewed),
            (404, document("NoSuchBucket", ""), Diagnosis::BucketNotFound),
            (404, document("NoSuchKey", ""), Diagnosis::Other),
            (409, document("BucketAlreadyExists", ""), Diagnosis::BucketTaken),
            (301, document("PermanentRedirect", ""), Diagnosis::WrongRegion),
            (400, document("AuthorizationHeaderMalformed", ""), Diagnosis::WrongRegion),
            (
                403,
                document("AccessDenied", "must be addressed using the specified endpoint"),
                Diagnosis::WrongRegion,
            ),
            (403, document("AccessDenied", "No."), Diagnosis::Denied),
            (403, String::new(), Diagnosis::Refused),
            (503, document("SlowDown", ""), Diagnosis::Busy),
            (507, document("XMinioStorageFull", ""), Diagnosis::Full),
        ] {
            let response = ErrorResponse::from_parts(StatusCode::from_u16(status).unwrap(), &text);
            assert_eq!(Diagnosis::of(&response.into_error("s3", "open")), diagnosis, "{text}");
        }
    }

    #[test]
    fn causes_are_found_at_any_depth() {
        let tls = |error: TlsError| io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
        let certificate = |problem| tls(TlsError::InvalidCertificate(problem));
        let causes: [(Box<dyn StdError + Send + Sync>, Diagnosis); 8] = [
            (Box::new(certificate(CertificateError::UnknownIssuer)), Diagnosis::UntrustedCertificate),
            (Box::new(certificate(CertificateError::Expired)), Diagnosis::CertificateNotValidNow),
            (Box::new(certificate(CertificateError::NotValidForName)), Diagnosis::CertificateNameMismatch),
            (Box::new(tls(TlsError::HandshakeNotComplete)), Diagnosis::TlsFailed),
            (Box::new(io::Error::from(io::ErrorKind::HostUnreachable)), Diagnosis::Unreachable),
            (Box::new(TimedOut), Diagnosis::TimedOut),
            (Box::new(SigningFailed(reqsign_core::ErrorKind::CredentialInvalid)), Diagnosis::NoCredentials),
            ("something else".into(), Diagnosis::Other),
        ];
        for (cause, diagnosis) in causes {
            let error = Error::new(ErrorKind::Other, "s3", "open").with_source(cause);
            assert_eq!(Diagnosis::of(&error), diagnosis, "{error:?}");
        }
        assert_eq!(Diagnosis::of(&Error::not_found("s3", "open")), Diagnosis::Other);
    }
}
