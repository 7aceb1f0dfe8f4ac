//! Errors of backends.

use std::{error::Error as StdError, fmt, io};

use rustix::io::Errno;

/// What a failure means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such object, upload or bucket.
    NotFound,
    /// The store is full.
    Full,
    /// The object does not have the expected size: it may be damaged.
    Truncated,
    /// The store rejects the list of parts: a part is missing, too small or has another tag.
    Mismatch,
    /// An object with this key already exists. It was not changed.
    Exists,
    /// The limit of concurrent transfers is reached. The operation was not started.
    Busy,
    /// The content is too large to be written without a known size.
    TooLarge,
    /// Any other failure of the store or the system.
    Other,
}

/// A failed operation of a backend. The source of the error can contain paths and names of vendors:
/// log the source, but never send it to clients.
#[derive(Debug)]
pub struct Error {
    /// What the failure means to the caller.
    pub kind: ErrorKind,
    /// Whether a retry of the same operation may succeed.
    pub retryable: bool,
    /// Name of the backend, as in [`Backend::name`](crate::Backend::name).
    pub backend: &'static str,
    /// The operation that failed, a verb such as `open`.
    pub operation: &'static str,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Result of the operations of a backend.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Creates an error of kind [`ErrorKind::NotFound`].
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

    pub(crate) fn mark_retryable(self) -> Self {
        Self { retryable: true, ..self }
    }

    pub(crate) fn with_source(self, source: Box<dyn StdError + Send + Sync>) -> Self {
        Self { source: Some(source), ..self }
    }

    /// Sets a message as the source, unless the error already has a source.
    pub(crate) fn with_message(self, what: impl Into<String>) -> Self {
        if self.source.is_some() { self } else { self.with_source(what.into().into()) }
    }

    /// Converts an error of the operating system.
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
        let out_of_resources =
            [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(|errno| Some(errno.raw_os_error()));
        let retryable = kind == ErrorKind::Full
            || matches!(source.kind(), io::ErrorKind::Interrupted | io::ErrorKind::TimedOut)
            || out_of_resources.contains(&source.raw_os_error());
        Self { kind, retryable, backend, operation, source: Some(Box::new(source)) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.backend, self.operation)?;
        match self.kind {
            ErrorKind::NotFound => f.write_str("not found"),
            ErrorKind::Full => f.write_str("the store is full"),
            ErrorKind::Truncated => f.write_str("the object does not have the expected size"),
            ErrorKind::Mismatch => f.write_str("a part is missing, too small or has another tag"),
            ErrorKind::Exists => f.write_str("an object with this key already exists"),
            ErrorKind::Busy => f.write_str("too many concurrent transfers; retry later"),
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
