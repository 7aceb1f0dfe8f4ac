use std::{
    borrow::Cow, collections::HashMap, error::Error as StdError, fmt, ops::RangeInclusive, sync::Arc,
    time::Duration,
};

use osproxy_api::ErrorCode;
use osproxy_storage as storage;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

/// After how long a client may try again when something is away.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Who errors of gRPC are of, beside their names.
const DOMAIN: &str = "osproxy";

/// Longest member that gRPC carries, in bytes: errors travel in header fields there, which clients limit to some KiB.
const MAX_GRPC_MEMBER: usize = 2048;

/// Why an operation did not succeed. Code and message are for the client; the source is for the log alone.
#[derive(Debug)]
pub struct Error {
    /// What went wrong, for programs.
    pub code: ErrorCode,
    /// What went wrong, for people: one sentence that names no vendor, path or query.
    pub message: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    size: Option<u64>,
    retry_after: Option<Duration>,
    members: Vec<(Cow<'static, str>, serde_json::Value)>,
}

/// What every operation returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that the client caused.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            source: None,
            size: None,
            retry_after: None,
            members: Vec::new(),
        }
    }

    /// A parameter that is not what it must be.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// There were too many requests; after this time there may be one more.
    pub(crate) fn rate_limited(wait: Duration) -> Self {
        let error = Self::new(ErrorCode::RateLimited, "there were too many requests, try again later");
        Self { retry_after: Some(wait), ..error }
    }

    /// The tenant's quota has not so much left.
    pub(crate) fn over_quota() -> Self {
        Self::new(
            ErrorCode::QuotaExceeded,
            "there is not so much left of what may be stored; remove something first",
        )
    }

    /// How long the client waits before it repeats the request, if the code is retryable.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.code.is_retryable().then(|| self.retry_after.unwrap_or(RETRY_AFTER))
    }

    /// Tells the size in bytes of the file that has no byte in the range asked for.
    pub(crate) fn with_size(self, size: u64) -> Self {
        Self { size: Some(size), ..self }
    }

    /// With `RangeNotSatisfiable`, the size of the file in bytes.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Tells a program more than the code does: a member of its own, where the protocol has room for it. A name that is
    /// given twice counts once, with what was said last.
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

    /// Names the field or parameter that is wrong.
    #[must_use]
    pub fn with_field(self, name: impl Into<String>) -> Self {
        self.with_member("field", name.into())
    }

    /// Names the parts that are missing: each range is a number, or text such as `4-9`.
    #[must_use]
    pub fn with_missing(self, parts: &[RangeInclusive<u32>]) -> Self {
        let range = |range: &RangeInclusive<u32>| match (range.start(), range.end()) {
            (first, last) if first == last => serde_json::Value::from(*first),
            (first, last) => format!("{first}-{last}").into(),
        };
        self.with_member("missing", parts.iter().map(range).collect::<Vec<_>>())
    }

    /// What a program is told beside the code.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &serde_json::Value)> {
        self.members.iter().map(|(name, value)| (&**name, value))
    }

    /// Something osproxy depends on does not answer as it should; trying again may help.
    pub fn unavailable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            code: ErrorCode::Unavailable,
            message: "the service cannot do this right now, try again later".into(),
            source: Some(source.into()),
            size: None,
            retry_after: None,
            members: Vec::new(),
        }
    }

    /// A disk has no room left, or the database has not.
    pub fn storage_full(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            source: Some(source.into()),
            ..Self::new(
                ErrorCode::StorageFull,
                "the store has no room for this; it goes on once the operator has made room",
            )
        }
    }

    /// The bytes lie with another node.
    pub fn elsewhere(store: &str) -> Self {
        Self::node_unavailable(format!("they lie in the store {store}, and no node says that it has it"))
    }

    /// The node that has the bytes does not answer as it should.
    pub fn node_unavailable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            code: ErrorCode::NodeUnavailable,
            message: "the node that holds the bytes of this file cannot be asked for them, try again later"
                .into(),
            source: Some(source.into()),
            size: None,
            retry_after: None,
            members: Vec::new(),
        }
    }

    /// A fault that the client has no part in and that trying again will not mend.
    pub fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            code: ErrorCode::Internal,
            message: "internal error".into(),
            source: Some(source.into()),
            size: None,
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

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        // An object that a row names must be there: the client is not to blame if it is not.
        match error.kind {
            storage::ErrorKind::Full => Self::storage_full(error),
            storage::ErrorKind::Busy => Self {
                source: Some(error.into()),
                ..Self::new(ErrorCode::Overloaded, "too many transfers to and from the store; retry later")
            },
            storage::ErrorKind::TooLarge => Self {
                source: Some(error.into()),
                ..Self::new(
                    ErrorCode::TooLarge,
                    "content of this size cannot be stored without its length; announce it, or send parts",
                )
            },
            storage::ErrorKind::Other if error.retryable => Self::unavailable(error),
            // The next attempt has another key.
            storage::ErrorKind::Exists => Self::unavailable(error),
            storage::ErrorKind::NotFound
            | storage::ErrorKind::Truncated
            | storage::ErrorKind::Mismatch
            | storage::ErrorKind::Other => Self::internal(error),
        }
    }
}

/// An error that gRPC carries to where it is logged.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct Carried(pub(crate) Arc<Error>);

/// An error as gRPC has it, with its name, the field that is wrong, and when to come again as details.
pub(crate) fn status(error: Arc<Error>) -> Status {
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let fits = |(_, text): &(String, String)| text.len() <= MAX_GRPC_MEMBER;
    let members: HashMap<_, _> =
        error.members().map(|(name, value)| (name.to_owned(), text(value))).filter(fits).collect();
    let field = members.get("field").cloned();
    let mut details = ErrorDetails::with_error_info(error.code.as_str().to_uppercase(), DOMAIN, members);
    if let Some(field) = field {
        details.add_bad_request_violation(field, error.message.clone());
    }
    if let Some(wait) = error.retry_after() {
        details.set_retry_info(Some(wait));
    }
    let mut status = Status::with_error_details(error.code.grpc_code(), error.message.clone(), details);
    status.set_source(Arc::new(Carried(error)));
    status
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        status(Arc::new(error))
    }
}

/// A chain of causes in one line, for the log and for command lines. Many errors say what their cause says: that is not
/// repeated.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}
