use std::{error::Error as StdError, fmt, time::Duration};

use osproxy_api::{ErrorCode, v1::Problem};

/// The result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The server refused the request; [`Error::code`] says why.
    Api,
    /// The connection could not be made, broke, or timed out.
    Transport,
    /// The response is not from a compatible osproxy server: it may be that of a proxy or of a
    /// captive portal.
    NotOsproxy,
    /// A local file or the source of an upload cannot be read or written.
    Io,
    /// The file was changed while it was sent, or since the upload began.
    SourceChanged,
    /// The content does not have the expected digest.
    DigestMismatch,
    /// An argument is invalid. No request was sent.
    InvalidInput,
}

/// An error of this crate. The message says what failed and why, for people; programs use
/// [`kind`](Self::kind) and [`code`](Self::code).
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    status: Option<u16>,
    problem: Option<Problem>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Inner { kind, message, status: None, problem: None, retry_after: None, source: None }))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    pub(crate) fn io(context: impl fmt::Display, source: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, format!("{context}: {source}")).with_source(source)
    }

    pub(crate) fn transport(source: reqwest::Error) -> Self {
        // The URL of a link is a secret, so it must not get into logs.
        let source = source.without_url();
        let mut message = format!("cannot reach the server: {source}");
        let mut cause = source.source();
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Self::new(ErrorKind::Transport, message).with_source(source)
    }

    pub(crate) fn not_osproxy(status: u16, message: impl fmt::Display) -> Self {
        let hint = "is this an osproxy server, or does a proxy or captive portal answer in its place?";
        Self::new(ErrorKind::NotOsproxy, format!("{message} (status {status}); {hint}")).with_status(status)
    }

    pub(crate) fn api(problem: Problem) -> Self {
        let kind = match ErrorCode::named(&problem.code) {
            Some(ErrorCode::DigestMismatch) => ErrorKind::DigestMismatch,
            _ => ErrorKind::Api,
        };
        let request = problem.request_id.as_ref().map(|id| format!(", request {id}")).unwrap_or_default();
        let message = format!("{} ({}, status {}{request})", problem.detail, problem.code, problem.status);
        let mut error = Self::new(kind, message).with_status(problem.status);
        error.0.problem = Some(problem);
        error
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    pub(crate) fn with_retry_after(mut self, pause: Option<Duration>) -> Self {
        self.0.retry_after = pause;
        self
    }

    fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The error code of the server, if it refused the request with a code that this version of the
    /// crate knows. [`problem`](Self::problem) has the other codes too.
    pub fn code(&self) -> Option<ErrorCode> {
        ErrorCode::named(&self.0.problem.as_ref()?.code)
    }

    /// The problem document of the server.
    pub fn problem(&self) -> Option<&Problem> {
        self.0.problem.as_ref()
    }

    /// The HTTP status of the response, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// Id of the request in the log of the server.
    pub fn request_id(&self) -> Option<&str> {
        self.0.problem.as_ref()?.request_id.as_deref()
    }

    /// How long the server asked to wait before the request is repeated.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same request can succeed later. The client has already repeated it as often as
    /// its [`RetryPolicy`](crate::RetryPolicy) allows.
    pub fn is_retryable(&self) -> bool {
        let by_status = || matches!(self.0.status, Some(429 | 502 | 503 | 504));
        match self.0.kind {
            ErrorKind::Transport => true,
            ErrorKind::Api => self.code().map_or_else(by_status, ErrorCode::is_retryable),
            ErrorKind::NotOsproxy => by_status(),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error").field("kind", &self.0.kind).field("message", &self.0.message).finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}
