use std::fmt;

/// The header of an answer that says which error it is, whatever the body looks like.
pub const ERROR_HEADER: &str = "osproxy-error";

/// Why a request was not served. The list is closed: each protocol maps it in an exhaustive match,
/// so a new code cannot be forgotten anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A parameter or the body is missing, malformed or out of bounds.
    InvalidArgument,
    /// The signature of a link does not fit what the link says.
    InvalidSignature,
    /// The link was valid once; its time is over.
    LinkExpired,
    /// The link was good once; the links of its file were revoked.
    LinkRevoked,
    /// The link was used as often as it may be.
    LinkUsedUp,
    /// There is no API key, or one that is worth nothing.
    Unauthenticated,
    /// The sender may not do that.
    PermissionDenied,
    /// The request's path names nothing.
    UnknownRoute,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// No file has this uid, or it is not complete yet.
    FileNotFound,
    /// The file was deleted, or its upload was not completed in time.
    FileGone,
    /// No task has this number.
    TaskNotFound,
    /// Only a task that was given up can be tried again.
    TaskNotDead,
    /// The file already has other content; content of a uid never changes.
    AlreadyStored,
    /// The content that was merged is not what the client had announced.
    FileCorrupt,
    /// The key that makes a request idempotent was used with another request.
    KeyReused,
    /// What is asked for is being done already, and has not ended.
    InProgress,
    /// The body is not of a type that is taken here.
    UnsupportedMediaType,
    /// The challenge was answered already, or not in time.
    ChallengeGone,
    /// Parts of the upload are missing, or there are more than the client says.
    PartsMissing,
    /// The parts have another size together than the client says.
    SizeMismatch,
    /// The bytes that arrived are not those that the client announced.
    DigestMismatch,
    /// The body ended before it was complete.
    IncompleteBody,
    /// `If-Match` or `If-Unmodified-Since` did not hold.
    PreconditionFailed,
    /// No byte of the file lies in the range asked for.
    RangeNotSatisfiable,
    /// The body is larger than the server takes.
    TooLarge,
    /// The tenant's quota has not so much left.
    QuotaExceeded,
    /// The store has not so much room left, or keeps what it has for others.
    StorageFull,
    /// There were too many requests; fewer of them will be served.
    RateLimited,
    /// As much is being done at this moment as the service takes on; the same request may succeed in a moment.
    Overloaded,
    /// The head of the request is larger than the server takes.
    HeaderTooLarge,
    /// The node that holds the bytes cannot be asked for them; the same request may succeed later.
    NodeUnavailable,
    /// Something osproxy depends on is away or full; the same request may succeed later.
    Unavailable,
    /// A fault of osproxy itself.
    Internal,
}

impl ErrorCode {
    /// The stable name, in `snake_case`, for logs and for protocols that carry it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::InvalidSignature => "invalid_signature",
            Self::LinkExpired => "link_expired",
            Self::LinkRevoked => "link_revoked",
            Self::LinkUsedUp => "link_used_up",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::UnknownRoute => "unknown_route",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::FileNotFound => "file_not_found",
            Self::FileGone => "file_gone",
            Self::TaskNotFound => "task_not_found",
            Self::TaskNotDead => "task_not_dead",
            Self::AlreadyStored => "already_stored",
            Self::FileCorrupt => "file_corrupt",
            Self::KeyReused => "key_reused",
            Self::InProgress => "in_progress",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::ChallengeGone => "challenge_gone",
            Self::PartsMissing => "parts_missing",
            Self::SizeMismatch => "size_mismatch",
            Self::DigestMismatch => "digest_mismatch",
            Self::IncompleteBody => "incomplete_body",
            Self::PreconditionFailed => "precondition_failed",
            Self::RangeNotSatisfiable => "range_not_satisfiable",
            Self::TooLarge => "too_large",
            Self::QuotaExceeded => "quota_exceeded",
            Self::StorageFull => "storage_full",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::HeaderTooLarge => "header_too_large",
            Self::NodeUnavailable => "node_unavailable",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status that API v0 answers with: 422 for everything the client got wrong about its
    /// parameters, its link or its bytes, as the clients of the Go program expect.
    pub const fn v0_status(self) -> u16 {
        match self {
            Self::InvalidArgument
            | Self::InvalidSignature
            | Self::LinkExpired
            | Self::LinkRevoked
            | Self::LinkUsedUp
            | Self::AlreadyStored
            | Self::KeyReused
            | Self::PartsMissing
            | Self::SizeMismatch
            | Self::DigestMismatch
            | Self::IncompleteBody => 422,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::UnknownRoute
            | Self::FileNotFound
            | Self::FileGone
            | Self::TaskNotFound
            | Self::ChallengeGone
            | Self::FileCorrupt => 404,
            Self::MethodNotAllowed => 405,
            Self::TaskNotDead | Self::InProgress => 409,
            Self::PreconditionFailed => 412,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RangeNotSatisfiable => 416,
            Self::RateLimited => 429,
            Self::HeaderTooLarge => 431,
            Self::Internal => 500,
            Self::NodeUnavailable | Self::Unavailable | Self::Overloaded => 503,
            Self::QuotaExceeded | Self::StorageFull => 507,
        }
    }

    /// The HTTP status that API v1 and its links answer with.
    pub const fn v1_status(self) -> u16 {
        match self {
            Self::InvalidArgument | Self::IncompleteBody => 400,
            Self::Unauthenticated => 401,
            Self::InvalidSignature
            | Self::LinkExpired
            | Self::LinkRevoked
            | Self::LinkUsedUp
            | Self::PermissionDenied => 403,
            Self::UnknownRoute | Self::FileNotFound | Self::TaskNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::AlreadyStored | Self::TaskNotDead | Self::PartsMissing | Self::InProgress => 409,
            Self::FileCorrupt | Self::FileGone | Self::ChallengeGone => 410,
            Self::PreconditionFailed => 412,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RangeNotSatisfiable => 416,
            Self::SizeMismatch | Self::DigestMismatch | Self::KeyReused => 422,
            Self::RateLimited => 429,
            Self::HeaderTooLarge => 431,
            Self::Internal => 500,
            Self::NodeUnavailable | Self::Unavailable | Self::Overloaded => 503,
            Self::QuotaExceeded | Self::StorageFull => 507,
        }
    }

    /// What went wrong in a few words that are the same every time: the title of a problem document.
    pub const fn title(self) -> &'static str {
        match self {
            Self::InvalidArgument => "Invalid argument",
            Self::InvalidSignature => "Invalid signature",
            Self::LinkExpired => "Link expired",
            Self::LinkRevoked => "Link revoked",
            Self::LinkUsedUp => "Link used up",
            Self::Unauthenticated => "Unauthenticated",
            Self::PermissionDenied => "Permission denied",
            Self::UnknownRoute => "Unknown route",
            Self::MethodNotAllowed => "Method not allowed",
            Self::FileNotFound => "File not found",
            Self::FileGone => "File gone",
            Self::TaskNotFound => "Task not found",
            Self::TaskNotDead => "Task not dead",
            Self::AlreadyStored => "Already stored",
            Self::FileCorrupt => "File corrupt",
            Self::KeyReused => "Idempotency key reused",
            Self::InProgress => "In progress",
            Self::UnsupportedMediaType => "Unsupported media type",
            Self::ChallengeGone => "Challenge gone",
            Self::PartsMissing => "Parts missing",
            Self::SizeMismatch => "Size mismatch",
            Self::DigestMismatch => "Digest mismatch",
            Self::IncompleteBody => "Incomplete body",
            Self::PreconditionFailed => "Precondition failed",
            Self::RangeNotSatisfiable => "Range not satisfiable",
            Self::TooLarge => "Too large",
            Self::QuotaExceeded => "Quota exceeded",
            Self::StorageFull => "Storage full",
            Self::RateLimited => "Rate limited",
            Self::Overloaded => "Overloaded",
            Self::HeaderTooLarge => "Header too large",
            Self::NodeUnavailable => "Node unavailable",
            Self::Unavailable => "Unavailable",
            Self::Internal => "Internal error",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
