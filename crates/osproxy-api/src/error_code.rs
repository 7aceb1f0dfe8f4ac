use std::fmt;

use tonic::Code;

/// The header of an answer that says which error it is, whatever the body looks like.
pub const ERROR_HEADER: &str = "osproxy-error";

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $name:literal,)*) => {
        /// Why a request was not served. The list is closed: each protocol maps it in an exhaustive match,
        /// so a new code cannot be forgotten anywhere.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $code,)*
        }

        impl ErrorCode {
            /// The stable name, in `snake_case`, for logs and for protocols that carry it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$code => $name,)*
                }
            }

            /// The code with a name.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$code),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// A parameter or the body is missing, malformed or out of bounds.
    InvalidArgument = "invalid_argument",
    /// The signature of a link does not fit what the link says.
    InvalidSignature = "invalid_signature",
    /// The link was valid once; its time is over.
    LinkExpired = "link_expired",
    /// The link was good once; the links of its file were revoked.
    LinkRevoked = "link_revoked",
    /// The link was used as often as it may be.
    LinkUsedUp = "link_used_up",
    /// There is no API key, or one that is worth nothing.
    Unauthenticated = "unauthenticated",
    /// The sender may not do that.
    PermissionDenied = "permission_denied",
    /// The request's path names nothing.
    UnknownRoute = "unknown_route",
    /// The path exists, but not with this method.
    MethodNotAllowed = "method_not_allowed",
    /// No file has this uid.
    FileNotFound = "file_not_found",
    /// The upload of the file is not complete, so it has no content yet.
    NotStored = "not_stored",
    /// The file was deleted, or its upload was not completed in time.
    FileGone = "file_gone",
    /// No task has this number.
    TaskNotFound = "task_not_found",
    /// Only a task that was given up can be tried again.
    TaskNotDead = "task_not_dead",
    /// The file already has other content; content of a uid never changes.
    AlreadyStored = "already_stored",
    /// The content that was merged is not what the client had announced.
    FileCorrupt = "file_corrupt",
    /// The key that makes a request idempotent was used with another request.
    KeyReused = "key_reused",
    /// What is asked for is being done already, and has not ended.
    InProgress = "in_progress",
    /// The body is not of a type that is taken here.
    UnsupportedMediaType = "unsupported_media_type",
    /// The challenge was answered already, or not in time.
    ChallengeGone = "challenge_gone",
    /// Parts of the upload are missing, or there are more than the client says.
    PartsMissing = "parts_missing",
    /// The parts have another size together than the client says.
    SizeMismatch = "size_mismatch",
    /// The bytes that arrived are not those that the client announced.
    DigestMismatch = "digest_mismatch",
    /// The body broke off: the connection was lost, or the client stalled or sent too slowly.
    IncompleteBody = "incomplete_body",
    /// `If-Match` or `If-Unmodified-Since` did not hold.
    PreconditionFailed = "precondition_failed",
    /// The time that the client gave its call ran out.
    DeadlineExceeded = "deadline_exceeded",
    /// No byte of the file lies in the range asked for.
    RangeNotSatisfiable = "range_not_satisfiable",
    /// The body is larger than the server takes.
    TooLarge = "too_large",
    /// The tenant's quota has not so much left.
    QuotaExceeded = "quota_exceeded",
    /// The store has not so much room left, or keeps what it has for others.
    StorageFull = "storage_full",
    /// There were too many requests; fewer of them will be served.
    RateLimited = "rate_limited",
    /// As much is being done at this moment as the service takes on; the same request may succeed in a moment.
    Overloaded = "overloaded",
    /// The head of the request is larger than the server takes.
    HeaderTooLarge = "header_too_large",
    /// The node that holds the bytes cannot be asked for them; the same request may succeed later.
    NodeUnavailable = "node_unavailable",
    /// Something osproxy depends on is away or full; the same request may succeed later.
    Unavailable = "unavailable",
    /// The request uses a feature of HTTP that the service does not implement, such as a transfer coding.
    NotImplemented = "not_implemented",
    /// A fault of osproxy itself.
    Internal = "internal",
}

impl ErrorCode {
    /// Whether the same request may succeed when it is sent again after a pause, without anybody doing anything about it.
    /// What is not retryable needs another request first, or somebody who looks after the service.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::IncompleteBody
            | Self::DeadlineExceeded
            | Self::InProgress
            | Self::RateLimited
            | Self::Overloaded
            | Self::NodeUnavailable
            | Self::Unavailable => true,
            Self::InvalidArgument
            | Self::InvalidSignature
            | Self::LinkExpired
            | Self::LinkRevoked
            | Self::LinkUsedUp
            | Self::Unauthenticated
            | Self::PermissionDenied
            | Self::UnknownRoute
            | Self::MethodNotAllowed
            | Self::FileNotFound
            | Self::NotStored
            | Self::FileGone
            | Self::TaskNotFound
            | Self::TaskNotDead
            | Self::AlreadyStored
            | Self::FileCorrupt
            | Self::KeyReused
            | Self::UnsupportedMediaType
            | Self::ChallengeGone
            | Self::PartsMissing
            | Self::SizeMismatch
            | Self::DigestMismatch
            | Self::PreconditionFailed
            | Self::RangeNotSatisfiable
            | Self::TooLarge
            | Self::QuotaExceeded
            | Self::StorageFull
            | Self::HeaderTooLarge
            | Self::NotImplemented
            | Self::Internal => false,
        }
    }

    /// The code that gRPC answers with.
    pub const fn grpc_code(self) -> Code {
        match self {
            Self::InvalidArgument
            | Self::UnsupportedMediaType
            | Self::SizeMismatch
            | Self::DigestMismatch
            | Self::TooLarge => Code::InvalidArgument,
            Self::InvalidSignature
            | Self::LinkExpired
            | Self::LinkRevoked
            | Self::LinkUsedUp
            | Self::PermissionDenied => Code::PermissionDenied,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::UnknownRoute | Self::MethodNotAllowed | Self::NotImplemented => Code::Unimplemented,
            Self::FileNotFound | Self::FileGone | Self::TaskNotFound | Self::ChallengeGone => Code::NotFound,
            Self::FileCorrupt => Code::DataLoss,
            Self::AlreadyStored => Code::AlreadyExists,
            Self::NotStored
            | Self::TaskNotDead
            | Self::KeyReused
            | Self::PartsMissing
            | Self::PreconditionFailed => Code::FailedPrecondition,
            Self::InProgress | Self::IncompleteBody => Code::Aborted,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::RangeNotSatisfiable => Code::OutOfRange,
            Self::QuotaExceeded | Self::StorageFull | Self::RateLimited | Self::HeaderTooLarge => {
                Code::ResourceExhausted
            }
            Self::Overloaded | Self::NodeUnavailable | Self::Unavailable => Code::Unavailable,
            Self::Internal => Code::Internal,
        }
    }

    /// The HTTP status that API v0 answers with: 422 for wrong parameters, links and bytes, as the clients of the
    /// Go program expect.
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
            | Self::DigestMismatch => 422,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::UnknownRoute
            | Self::FileNotFound
            | Self::NotStored
            | Self::FileGone
            | Self::TaskNotFound
            | Self::ChallengeGone
            | Self::FileCorrupt => 404,
            Self::MethodNotAllowed => 405,
            Self::IncompleteBody | Self::DeadlineExceeded => 408,
            Self::TaskNotDead | Self::InProgress => 409,
            Self::PreconditionFailed => 412,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RangeNotSatisfiable => 416,
            Self::RateLimited => 429,
            Self::HeaderTooLarge => 431,
            Self::Internal => 500,
            Self::NotImplemented => 501,
            Self::NodeUnavailable | Self::Unavailable | Self::Overloaded => 503,
            Self::QuotaExceeded | Self::StorageFull => 507,
        }
    }

    /// The HTTP status that API v1 and its links answer with.
    pub const fn v1_status(self) -> u16 {
        match self {
            Self::InvalidArgument => 400,
            Self::Unauthenticated => 401,
            Self::InvalidSignature
            | Self::LinkExpired
            | Self::LinkRevoked
            | Self::LinkUsedUp
            | Self::PermissionDenied => 403,
            Self::UnknownRoute | Self::FileNotFound | Self::TaskNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::IncompleteBody | Self::DeadlineExceeded => 408,
            Self::NotStored
            | Self::AlreadyStored
            | Self::TaskNotDead
            | Self::PartsMissing
            | Self::InProgress => 409,
            Self::FileCorrupt | Self::FileGone | Self::ChallengeGone => 410,
            Self::PreconditionFailed => 412,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RangeNotSatisfiable => 416,
            Self::SizeMismatch | Self::DigestMismatch | Self::KeyReused => 422,
            Self::RateLimited => 429,
            Self::HeaderTooLarge => 431,
            Self::Internal => 500,
            Self::NotImplemented => 501,
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
            Self::NotStored => "Not stored",
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
            Self::DeadlineExceeded => "Deadline exceeded",
            Self::RangeNotSatisfiable => "Range not satisfiable",
            Self::TooLarge => "Too large",
            Self::QuotaExceeded => "Quota exceeded",
            Self::StorageFull => "Storage full",
            Self::RateLimited => "Rate limited",
            Self::Overloaded => "Overloaded",
            Self::HeaderTooLarge => "Header too large",
            Self::NodeUnavailable => "Node unavailable",
            Self::Unavailable => "Unavailable",
            Self::NotImplemented => "Not implemented",
            Self::Internal => "Internal error",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
