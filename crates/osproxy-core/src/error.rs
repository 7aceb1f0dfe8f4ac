use std::{borrow::Cow, error::Error as StdError, fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use osproxy_api::ErrorCode;
use osproxy_cluster::{ForwardFailure, NoOwner};
use osproxy_meta::MetaError;
use osproxy_storage as storage;

use crate::links::LinkError;

/// How long clients wait before a retry, if the error does not set another delay.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The error of an operation. The source is only logged; everything else is for the client.
#[derive(Clone, Debug)]
pub struct Error {
    /// Machine-readable reason.
    pub code: ErrorCode,
    /// Human-readable reason: one sentence that names no vendor, path or query.
    pub message: Cow<'static, str>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    file_size: Option<u64>,
    retry_after: Option<Duration>,
    members: Vec<(Cow<'static, str>, serde_json::Value)>,
}

/// Result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Creates an error without a source.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            source: None,
            file_size: None,
            retry_after: None,
            members: Vec::new(),
        }
    }

    /// Creates an error for an invalid parameter.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// Rate limit exceeded. The client may send its next request after `wait`.
    pub fn rate_limited(wait: Duration) -> Self {
        let error = Self::new(ErrorCode::RateLimited, "too many requests; retry later");
        Self { retry_after: Some(wait), ..error }
    }

    /// The request would exceed the tenant's quota.
    pub fn quota_exceeded() -> Self {
        Self::new(ErrorCode::QuotaExceeded, "the storage quota is exceeded; delete files to free space")
    }

    /// The client appends at another offset than `offset`, where the received bytes end.
    pub fn offset_mismatch(offset: u64) -> Self {
        let message = format!("the upload continues at offset {offset}");
        Self::new(ErrorCode::OffsetMismatch, message).with_member("offset", offset)
    }

    /// How long the client should wait before it retries; `None` if the code is not retryable.
    pub fn retry_after(&self) -> Option<Duration> {
        self.code.is_retryable().then(|| self.retry_after.unwrap_or(DEFAULT_RETRY_AFTER))
    }

    /// Adds the size of the file in bytes, for `RangeNotSatisfiable`.
    #[must_use]
    pub fn with_file_size(self, size: u64) -> Self {
        Self { file_size: Some(size), ..self }
    }

    /// Size of the file in bytes, if it was added for `RangeNotSatisfiable`.
    pub fn file_size(&self) -> Option<u64> {
        self.file_size
    }

    /// Adds a machine-readable member, for protocols that can transmit it. Replaces an earlier
    /// member with the same name.
    #[must_use]
    pub fn with_member(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<serde_json::Value>,
    ) -> Self {
        let name = name.into();
        self.members.retain(|(known, _)| *known != name);
        self.members.push((name, value.into()));
        self
    }

    /// Adds the name of the invalid field or parameter.
    #[must_use]
    pub fn with_field(self, name: impl Into<String>) -> Self {
        self.with_member("field", name.into())
    }

    /// Adds the missing parts as a list. A single part becomes a number such as `3`, a longer range
    /// becomes a text such as `4-9`.
    #[must_use]
    pub fn with_missing_parts(self, parts: &[RangeInclusive<u32>]) -> Self {
        let range = |range: &RangeInclusive<u32>| match (range.start(), range.end()) {
            (first, last) if first == last => serde_json::Value::from(*first),
            (first, last) => format!("{first}-{last}").into(),
        };
        self.with_member("missing", parts.iter().map(range).collect::<Vec<_>>())
    }

    /// The machine-readable members, in addition to the code.
    pub fn members(&self) -> impl Iterator<Item = (&str, &serde_json::Value)> {
        self.members.iter().map(|(name, value)| (&**name, value))
    }

    /// A dependency of osproxy failed; a retry may succeed.
    pub fn unavailable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            code: ErrorCode::Unavailable,
            message: "the service is temporarily unavailable; retry later".into(),
            source: Some(Arc::from(source.into())),
            file_size: None,
            retry_after: None,
            members: Vec::new(),
        }
    }

    /// The disk of a store or of the database is full.
    pub fn storage_full(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            source: Some(Arc::from(source.into())),
            ..Self::new(
                ErrorCode::StorageFull,
                "the storage is full; uploads work again once the operator has freed space",
            )
        }
    }

    /// The content is in a store of another node, and no live node serves that store.
    pub fn store_unreachable(store: &str) -> Self {
        Self::node_unavailable(format!("the content is in the store {store}, which no live node serves"))
    }

    /// The node that has the content does not answer, or answers incorrectly.
    pub fn node_unavailable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            code: ErrorCode::NodeUnavailable,
            message: "the node that has the content of this file is unreachable; retry later".into(),
            source: Some(Arc::from(source.into())),
            file_size: None,
            retry_after: None,
            members: Vec::new(),
        }
    }

    /// A fault that the client did not cause and that a retry will not fix.
    pub fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            code: ErrorCode::Internal,
            message: "internal error".into(),
            source: Some(Arc::from(source.into())),
            file_size: None,
            retry_after: None,
            members: Vec::new(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<MetaError> for Error {
    fn from(error: MetaError) -> Self {
        match error {
            MetaError::DiskFull(_) => Self::storage_full(error),
            MetaError::Retryable(_) => Self::unavailable(error),
            MetaError::Conflict(_) | MetaError::Bug(_) => Self::internal(error),
        }
    }
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        // If an object that a row names is missing, the server is at fault, not the client.
        match error.kind {
            storage::ErrorKind::Full => Self::storage_full(error),
            storage::ErrorKind::Busy => Self {
                source: Some(Arc::new(error)),
                ..Self::new(ErrorCode::Overloaded, "too many transfers to and from the store; retry later")
            },
            storage::ErrorKind::TooLarge => Self {
                source: Some(Arc::new(error)),
                ..Self::new(
                    ErrorCode::TooLarge,
                    "content of this size needs a declared length; declare the length or upload in parts",
                )
            },
            storage::ErrorKind::Other if error.retryable => Self::unavailable(error),
            // A retry writes to another key.
            storage::ErrorKind::Exists => Self::unavailable(error),
            storage::ErrorKind::NotFound
            | storage::ErrorKind::Truncated
            | storage::ErrorKind::Mismatch
            | storage::ErrorKind::Other => Self::internal(error),
        }
    }
}

impl From<LinkError> for Error {
    fn from(error: LinkError) -> Self {
        let code = match error {
            LinkError::Signature => ErrorCode::InvalidSignature,
            LinkError::Expired => ErrorCode::LinkExpired,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ForwardFailure> for Error {
    fn from(failure: ForwardFailure) -> Self {
        match failure {
            ForwardFailure::BodyAborted(_) => {
                Self::new(ErrorCode::IncompleteBody, "the body ended before it was complete")
            }
            ForwardFailure::Unavailable(source) => Self::node_unavailable(source),
            ForwardFailure::NoOwner(NoOwner { store }) => Self::store_unreachable(&store),
        }
    }
}
