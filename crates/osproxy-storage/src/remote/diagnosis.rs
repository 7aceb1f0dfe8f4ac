use std::{error::Error as StdError, fmt, io, iter};

use rustls::{CertificateError, Error as TlsError};

use super::Answer;
use crate::{Error, ErrorKind, layers::Late};

/// Why a store on another machine did not do what it was asked for, as far as the error tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diagnosis {
    /// Nobody knows a host of that name.
    NameUnknown,
    /// Nothing listens at the port.
    NothingListens,
    /// There is no way to the host.
    Unreachable,
    /// It did not answer in time.
    Late,
    /// Its certificate is of an authority that is not trusted here.
    Untrusted,
    /// Its certificate is for another name.
    OtherName,
    /// Its certificate is not valid yet, or no longer, by the clock of this machine.
    NotValidNow,
    /// It does not speak TLS.
    NotEncrypted,
    /// Nothing came of encryption for another reason.
    Encryption,
    /// It went away instead of answering.
    Closed,
    /// What it says is not HTTP.
    NotHttp,
    /// It speaks HTTP, but not as a store.
    NoStore,
    /// The proxy lets nothing through.
    Proxy,
    /// No credentials were given, and none were found.
    NoCredentials,
    /// The store knows no such key.
    KeyUnknown,
    /// The signature is not that of the key: the secret is another one.
    WrongSecret,
    /// The token of the temporary key is not one, or not of this key.
    WrongToken,
    /// The temporary key was good until some time ago.
    Expired,
    /// The clocks are too far apart for a signature to be good.
    ClockSkewed,
    /// The key may not do this.
    Denied,
    /// Refused without a word, as answers to HEAD are.
    Refused,
    /// There is no such bucket.
    NoBucket,
    /// The bucket is somebody else's.
    BucketTaken,
    /// The bucket is in another region, or the request was signed for another one.
    OtherRegion,
    /// It cannot do it now.
    Busy,
    /// It has no room.
    Full,
    /// Something else.
    Other,
}

impl Diagnosis {
    /// What an error says.
    pub fn of(error: &Error) -> Self {
        if let Some(answer) = Answer::of(error) {
            return Self::of_answer(answer, error);
        }
        let Some(source) = error.source() else {
            return Self::Other;
        };
        let causes: Vec<_> = iter::successors(Some(source), |&cause| cause.source()).collect();
        let of = |what: fn(&(dyn StdError + 'static)) -> Option<Self>| {
            causes.iter().find_map(|&cause| what(cause))
        };
        // A connection that fails is the cause of several errors at once, the plainest of which is the last.
        of(of_ours)
            .or_else(|| of(of_name))
            .or_else(|| of(of_io))
            .or_else(|| of(of_http))
            .unwrap_or(Self::Other)
    }

    fn of_answer(answer: &Answer, error: &Error) -> Self {
        match (answer.status, answer.code.as_str()) {
            (_, "InvalidAccessKeyId" | "InvalidSecretId" | "InvalidClientTokenId" | "UserDisable") => {
                Self::KeyUnknown
            }
            (_, "SignatureDoesNotMatch") => Self::WrongSecret,
            (_, "InvalidToken" | "InvalidSecurityToken" | "SecurityTokenMalformed") => Self::WrongToken,
            (_, "ExpiredToken" | "SecurityTokenExpired" | "TokenRefreshRequired" | "RequestIsExpired") => {
                Self::Expired
            }
            (_, "RequestTimeTooSkewed" | "RequestExpired" | "RequestNotYetValid") => Self::ClockSkewed,
            (_, "NoSuchBucket") => Self::NoBucket,
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
            ) => Self::OtherRegion,
            // Aliyun says so of buckets in other regions.
            (403, "AccessDenied") if answer.message.contains("specified endpoint") => Self::OtherRegion,
            (400 | 401 | 403, "") => Self::Refused,
            (401 | 403, _) => Self::Denied,
            (407, _) => Self::Proxy,
            _ if error.kind == ErrorKind::Full => Self::Full,
            _ if error.retryable => Self::Busy,
            _ => Self::Other,
        }
    }
}

/// What this crate found out itself.
fn of_ours(cause: &(dyn StdError + 'static)) -> Option<Diagnosis> {
    if let Some(NoStore { status }) = cause.downcast_ref() {
        return Some(match status {
            407 => Diagnosis::Proxy,
            // Something between is there, and the store behind it is not.
            500.. => Diagnosis::Busy,
            _ => Diagnosis::NoStore,
        });
    }
    if let Some(CannotSign(kind)) = cause.downcast_ref() {
        // What one of the places where credentials are looked for says is of no use when none has any.
        let is_request = *kind == reqsign_core::ErrorKind::RequestInvalid;
        return Some(if is_request { Diagnosis::Other } else { Diagnosis::NoCredentials });
    }
    if cause.is::<NoBucket>() {
        return Some(Diagnosis::NoBucket);
    }
    cause.is::<Late>().then_some(Diagnosis::Late)
}

/// What has no type that could be asked, but a text.
fn of_name(cause: &(dyn StdError + 'static)) -> Option<Diagnosis> {
    (cause.to_string() == "dns error").then_some(Diagnosis::NameUnknown)
}

fn of_io(cause: &(dyn StdError + 'static)) -> Option<Diagnosis> {
    let error: &io::Error = cause.downcast_ref()?;
    // What stands in it is not its source, and may be another one of its kind.
    if let Some(inner) = error.get_ref() {
        let tls = inner.downcast_ref().map(of_tls);
        if let Some(found) = tls.or_else(|| of_io(inner)) {
            return Some(found);
        }
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(Diagnosis::NothingListens),
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::PermissionDenied => Some(Diagnosis::Unreachable),
        io::ErrorKind::TimedOut => Some(Diagnosis::Late),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Some(Diagnosis::Closed),
        _ => None,
    }
}

fn of_tls(error: &TlsError) -> Diagnosis {
    match error {
        TlsError::InvalidMessage(_) => Diagnosis::NotEncrypted,
        TlsError::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer | CertificateError::BadSignature | CertificateError::Other(_) => {
                Diagnosis::Untrusted
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Diagnosis::OtherName
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Diagnosis::NotValidNow,
            _ => Diagnosis::Encryption,
        },
        _ => Diagnosis::Encryption,
    }
}

fn of_http(cause: &(dyn StdError + 'static)) -> Option<Diagnosis> {
    if let Some(error) = cause.downcast_ref::<reqwest::Error>()
        && error.is_timeout()
    {
        return Some(Diagnosis::Late);
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

/// What answers is no store.
#[derive(Debug)]
pub(super) struct NoStore {
    pub(super) status: u16,
}

impl fmt::Display for NoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}, and not the document of a store", self.status)
    }
}

impl StdError for NoStore {}

/// A request could not be signed. Nothing but the kind is kept: the rest may tell of secrets.
#[derive(Debug)]
pub(super) struct CannotSign(pub(super) reqsign_core::ErrorKind);

impl fmt::Display for CannotSign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot sign: {}", self.0)
    }
}

impl StdError for CannotSign {}

/// Buckets that are not there, by their names.
#[derive(Debug)]
pub(super) struct NoBucket(pub(super) String);

impl fmt::Display for NoBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for NoBucket {}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let document = |code: &str, message: &str| {
            format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>")
        };
        for (status, text, diagnosis) in [
            (403, document("InvalidAccessKeyId", ""), Diagnosis::KeyUnknown),
            (403, document("SignatureDoesNotMatch", ""), Diagnosis::WrongSecret),
            (400, document("InvalidToken", ""), Diagnosis::WrongToken),
            (400, document("ExpiredToken", ""), Diagnosis::Expired),
            (403, document("SecurityTokenExpired", ""), Diagnosis::Expired),
            (403, document("RequestTimeTooSkewed", ""), Diagnosis::ClockSkewed),
            (404, document("NoSuchBucket", ""), Diagnosis::NoBucket),
            (404, document("NoSuchKey", ""), Diagnosis::Other),
            (409, document("BucketAlreadyExists", ""), Diagnosis::BucketTaken),
            (301, document("PermanentRedirect", ""), Diagnosis::OtherRegion),
            (400, document("AuthorizationHeaderMalformed", ""), Diagnosis::OtherRegion),
            (
                403,
                document("AccessDenied", "must be addressed using the specified endpoint"),
                Diagnosis::OtherRegion,
            ),
            (403, document("AccessDenied", "No."), Diagnosis::Denied),
            (403, String::new(), Diagnosis::Refused),
            (503, document("SlowDown", ""), Diagnosis::Busy),
            (507, document("XMinioStorageFull", ""), Diagnosis::Full),
        ] {
            let answer = Answer::from_parts(StatusCode::from_u16(status).unwrap(), &text);
            assert_eq!(Diagnosis::of(&answer.into_error("s3", "open")), diagnosis, "{text}");
        }
    }

    #[test]
    fn causes_are_found_where_they_stand() {
        let tls = |error: TlsError| io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
        let certificate = |problem| tls(TlsError::InvalidCertificate(problem));
        let causes: [(Box<dyn StdError + Send + Sync>, Diagnosis); 8] = [
            (Box::new(certificate(CertificateError::UnknownIssuer)), Diagnosis::Untrusted),
            (Box::new(certificate(CertificateError::Expired)), Diagnosis::NotValidNow),
            (Box::new(certificate(CertificateError::NotValidForName)), Diagnosis::OtherName),
            (Box::new(tls(TlsError::HandshakeNotComplete)), Diagnosis::Encryption),
            (Box::new(io::Error::from(io::ErrorKind::HostUnreachable)), Diagnosis::Unreachable),
            (Box::new(Late), Diagnosis::Late),
            (Box::new(CannotSign(reqsign_core::ErrorKind::CredentialInvalid)), Diagnosis::NoCredentials),
            ("something else".into(), Diagnosis::Other),
        ];
        for (cause, diagnosis) in causes {
            let error = Error::new(ErrorKind::Other, "s3", "open").caused_by(cause);
            assert_eq!(Diagnosis::of(&error), diagnosis, "{error:?}");
        }
        assert_eq!(Diagnosis::of(&Error::not_found("s3", "open")), Diagnosis::Other);
    }
}
