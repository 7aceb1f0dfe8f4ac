use std::{error::Error as StdError, fmt, io};

use rustix::io::Errno;

/// What a failure means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no object under the key.
    NotFound,
    /// The store has no room left.
    Full,
    /// The object has not the size that it must have: it was damaged behind our back.
    Truncated,
    /// What the store has is not what it was said to have; see the operation.
    Mismatch,
    /// There is an object under the key already, which stays as it is.
    Exists,
    /// As many objects are read and written as may be at the same time; nothing was tried.
    Busy,
    /// The content is larger than the store takes in this way.
    TooLarge,
    /// Everything else the store or the system says.
    Other,
}

/// A failed operation of a backend. `source` may name paths and vendors: it belongs into logs, never to clients.
#[derive(Debug)]
pub struct Error {
    /// What it means.
    pub kind: ErrorKind,
    /// Whether the same operation may succeed when it is tried again.
    pub retryable: bool,
    /// Name of the backend, as in [`Backend::name`](crate::Backend::name).
    pub backend: &'static str,
    /// What was attempted, a verb such as `open`.
    pub operation: &'static str,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What every operation of a backend returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// There is no object under the key.
    pub fn not_found(backend: &'static str, operation: &'static str) -> Self {
        Self::new(ErrorKind::NotFound, backend, operation)
    }

    pub(crate) fn new(kind: ErrorKind, backend: &'static str, operation: &'static str) -> Self {
        Self {
            kind,
            retryable: matches!(kind, ErrorKind::Full | ErrorKind::Busy),
            backend,
            operation,
            source: None,
        }
    }

    /// Says why.
    pub(crate) fn caused_by(self, source: Box<dyn StdError + Send + Sync>) -> Self {
        Self { source: Some(source), ..self }
    }

    /// Says in words what it is about; what caused it stays, if that is known.
    pub(crate) fn about(self, what: impl Into<String>) -> Self {
        if self.source.is_some() { self } else { self.caused_by(what.into().into()) }
    }

    /// Maps an error of the operating system.
    pub(crate) fn io(backend: &'static str, operation: &'static str, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                ErrorKind::Full
            }
            io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            _ => ErrorKind::Other,
        };
        let short_of = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(|errno| Some(errno.raw_os_error()));
        let retryable = kind == ErrorKind::Full
            || matches!(source.kind(), io::ErrorKind::Interrupted | io::ErrorKind::TimedOut)
            || short_of.contains(&source.raw_os_error());
        Self { kind, retryable, backend, operation, source: Some(Box::new(source)) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.backend, self.operation)?;
        match self.kind {
            ErrorKind::NotFound => f.write_str("no such object"),
            ErrorKind::Full => f.write_str("no room left"),
            ErrorKind::Truncated => f.write_str("the object has not the size that it must have"),
            ErrorKind::Mismatch => f.write_str("the store has something else"),
            ErrorKind::Exists => f.write_str("there is another object under the key"),
            ErrorKind::Busy => f.write_str("too many transfers at once"),
            ErrorKind::TooLarge => f.write_str("the content is too large"),
            ErrorKind::Other => f.write_str("failed"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
