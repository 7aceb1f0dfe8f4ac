use std::fmt;

use tonic::Code;

/// HTTP response header with the error code. Every error response has it, no matter which format
/// the body has.
pub const ERROR_HEADER: &str = "osproxy-error";

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $name:literal,)*) => {
        /// Why a request failed. The list is closed, and each protocol maps it in an exhaustive
        /// match, so that no protocol misses a new code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $code,)*
        }

        impl ErrorCode {
            /// The stable name in `snake_case`, used in logs and on the wire.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$code => $name,)*
                }
            }

            /// Parses the name of a code; `None` if there is no such code.
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
    /// A parameter or the body is missing, malformed or out of range.
    InvalidArgument = "invalid_argument",
    /// The signature does not match the link.
    InvalidSignature = "invalid_signature",
    /// The link has expired.
    LinkExpired = "link_expired",
    /// The links of the file were revoked.
    LinkRevoked = "link_revoked",
    /// The link has reached its maximum number of uses.
    LinkUsedUp = "link_used_up",
    /// The API key is missing or invalid.
    Unauthenticated = "unauthenticated",
    /// The caller lacks the permission for this request.
    PermissionDenied = "permission_denied",
    /// There is no route with this path.
    UnknownRoute = "unknown_route",
    /// The route does not support this method.
    MethodNotAllowed = "method_not_allowed",
    /// There is no file with this uid.
    FileNotFound = "file_not_found",
    /// The file has no content yet, because its upload is not complete.
    NotStored = "not_stored",
    /// The file was deleted, or its upload expired.
    FileGone = "file_gone",
    /// There is no upload grant with this id.
    GrantNotFound = "grant_not_found",
    /// There is no webhook with this id.
    WebhookNotFound = "webhook_not_found",
    /// The webhook is in the configuration file and can only be changed there.
    WebhookConfigured = "webhook_configured",
    /// An earlier rotation of the secret of the webhook has not ended.
    WebhookSecretRotating = "webhook_secret_rotating",
    /// The tenant has the maximum number of webhooks.
    TooManyWebhooks = "too_many_webhooks",
    /// There is no bucket with this name.
    BucketNotFound = "bucket_not_found",
    /// The tenant has a bucket with this name.
    BucketExists = "bucket_exists",
    /// Another tenant has a bucket with this name.
    BucketTaken = "bucket_taken",
    /// Only a bucket without objects can be deleted.
    BucketNotEmpty = "bucket_not_empty",
    /// The tenant has the maximum number of buckets.
    TooManyBuckets = "too_many_buckets",
    /// The bucket has no object with this key.
    ObjectNotFound = "object_not_found",
    /// The file is the object of another key.
    FileIsObject = "file_is_object",
    /// There is no task with this id.
    TaskNotFound = "task_not_found",
    /// Only dead tasks can be retried.
    TaskNotDead = "task_not_dead",
    /// The file is already complete; the content of a uid never changes.
    AlreadyStored = "already_stored",
    /// The complete content does not have the expected digests or type, and was removed.
    FileCorrupt = "file_corrupt",
    /// The content is complete, and is being processed before it can be read.
    FileProcessing = "file_processing",
    /// Processing did not accept the content, and it was removed.
    FileRejected = "file_rejected",
    /// Processing found the content dangerous; nobody can read it.
    FileQuarantined = "file_quarantined",
    /// The idempotency key was used for a different request.
    KeyReused = "key_reused",
    /// The same operation is already in progress.
    InProgress = "in_progress",
    /// The content type of the body is not supported.
    UnsupportedMediaType = "unsupported_media_type",
    /// The challenge was answered before, or has expired.
    ChallengeGone = "challenge_gone",
    /// Events after the given one were removed.
    CursorExpired = "cursor_expired",
    /// Parts of the upload are missing, or it has more parts than the client declared.
    PartsMissing = "parts_missing",
    /// A part that is not the last is smaller than the minimum.
    PartTooSmall = "part_too_small",
    /// The total size of the parts differs from the declared size.
    SizeMismatch = "size_mismatch",
    /// The client appends at another offset than the one where the received bytes end.
    OffsetMismatch = "offset_mismatch",
    /// The received bytes do not match the expected digests.
    DigestMismatch = "digest_mismatch",
    /// The body ended early: the connection was lost, or the client stalled or sent too slowly.
    IncompleteBody = "incomplete_body",
    /// A newer request for the same upload has ended this one.
    Superseded = "superseded",
    /// The condition of `If-Match` or `If-Unmodified-Since` is not met.
    PreconditionFailed = "precondition_failed",
    /// The client's deadline has passed.
    DeadlineExceeded = "deadline_exceeded",
    /// The requested range contains no byte of the file.
    RangeNotSatisfiable = "range_not_satisfiable",
    /// The body exceeds the maximum size.
    TooLarge = "too_large",
    /// The request would exceed the tenant's quota.
    QuotaExceeded = "quota_exceeded",
    /// The store or the disk of the database is full, or the remaining space is reserved.
    StorageFull = "storage_full",
    /// The client exceeded its rate limit.
    RateLimited = "rate_limited",
    /// The service is at its limit of concurrent work; retry later.
    Overloaded = "overloaded",
    /// The request header exceeds the maximum size.
    HeaderTooLarge = "header_too_large",
    /// The node that stores the bytes cannot be reached; retry later.
    NodeUnavailable = "node_unavailable",
    /// A dependency of osproxy is unavailable, or a concurrent request interfered; retry later.
    Unavailable = "unavailable",
    /// The request uses an HTTP feature that is not supported, such as a transfer coding.
    NotImplemented = "not_implemented",
    /// A bug in osproxy.
    Internal = "internal",
}

impl ErrorCode {
    /// Whether the same request can succeed later, without any other action. After all other
    /// errors, the client must send a different request, or an operator must fix the cause.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::IncompleteBody
            | Self::DeadlineExceeded
            | Self::InProgress
            | Self::FileProcessing
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
            | Self::GrantNotFound
            | Self::WebhookNotFound
            | Self::WebhookConfigured
            | Self::WebhookSecretRotating
            | Self::TooManyWebhooks
            | Self::BucketNotFound
            | Self::BucketExists
            | Self::BucketTaken
            | Self::BucketNotEmpty
            | Self::TooManyBuckets
            | Self::ObjectNotFound
            | Self::FileIsObject
            | Self::TaskNotFound
            | Self::TaskNotDead
            | Self::AlreadyStored
            | Self::FileCorrupt
            | Self::FileRejected
            | Self::FileQuarantined
            | Self::KeyReused
            | Self::UnsupportedMediaType
            | Self::ChallengeGone
            | Self::CursorExpired
            | Self::PartsMissing
            | Self::PartTooSmall
            | Self::SizeMismatch
            | Self::OffsetMismatch
            | Self::DigestMismatch
            | Self::Superseded
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

    /// The gRPC status code.
    pub const fn grpc_code(self) -> Code {
        match self {
            Self::InvalidArgument
            | Self::UnsupportedMediaType
            | Self::PartTooSmall
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
            Self::FileNotFound
            | Self::FileGone
            | Self::GrantNotFound
            | Self::WebhookNotFound
            | Self::BucketNotFound
            | Self::ObjectNotFound
            | Self::TaskNotFound
            | Self::ChallengeGone => Code::NotFound,
            Self::FileCorrupt => Code::DataLoss,
            Self::AlreadyStored | Self::BucketExists | Self::BucketTaken => Code::AlreadyExists,
            Self::NotStored
            | Self::FileRejected
            | Self::FileQuarantined
            | Self::TaskNotDead
            | Self::WebhookConfigured
            | Self::BucketNotEmpty
            | Self::FileIsObject
            | Self::WebhookSecretRotating
            | Self::KeyReused
            | Self::PartsMissing
            | Self::OffsetMismatch
            | Self::PreconditionFailed => Code::FailedPrecondition,
            Self::InProgress | Self::FileProcessing | Self::IncompleteBody | Self::Superseded => {
                Code::Aborted
            }
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::RangeNotSatisfiable | Self::CursorExpired => Code::OutOfRange,
            Self::TooManyWebhooks
            | Self::TooManyBuckets
            | Self::QuotaExceeded
            | Self::StorageFull
            | Self::RateLimited
            | Self::HeaderTooLarge => Code::ResourceExhausted,
            Self::Overloaded | Self::NodeUnavailable | Self::Unavailable => Code::Unavailable,
            Self::Internal => Code::Internal,
        }
    }

    /// The HTTP status of API v0. As clients of the Go program expect, the status is 422 if a
    /// parameter, the link or the content is invalid.
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
            | Self::PartTooSmall
            | Self::SizeMismatch
            | Self::DigestMismatch => 422,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::UnknownRoute
            | Self::FileNotFound
            | Self::NotStored
            | Self::FileGone
            | Self::GrantNotFound
            | Self::WebhookNotFound
            | Self::BucketNotFound
            | Self::ObjectNotFound
            | Self::TaskNotFound
            | Self::ChallengeGone
            | Self::CursorExpired
            | Self::FileCorrupt
            | Self::FileProcessing
            | Self::FileRejected
            | Self::FileQuarantined => 404,
            Self::MethodNotAllowed => 405,
            Self::IncompleteBody | Self::DeadlineExceeded => 408,
            Self::TaskNotDead
            | Self::WebhookConfigured
            | Self::WebhookSecretRotating
            | Self::TooManyWebhooks
            | Self::BucketExists
            | Self::BucketTaken
            | Self::BucketNotEmpty
            | Self::TooManyBuckets
            | Self::FileIsObject
            | Self::InProgress
            | Self::OffsetMismatch
            | Self::Superseded => 409,
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

    /// The HTTP status of API v1 and its links.
    pub const fn v1_status(self) -> u16 {
        match self {
            Self::InvalidArgument | Self::PartTooSmall => 400,
            Self::Unauthenticated => 401,
            Self::InvalidSignature
            | Self::LinkExpired
            | Self::LinkRevoked
            | Self::LinkUsedUp
            | Self::PermissionDenied => 403,
            Self::UnknownRoute
            | Self::FileNotFound
            | Self::GrantNotFound
            | Self::WebhookNotFound
            | Self::BucketNotFound
            | Self::ObjectNotFound
            | Self::TaskNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::IncompleteBody | Self::DeadlineExceeded => 408,
            Self::NotStored
            | Self::AlreadyStored
            | Self::TaskNotDead
            | Self::WebhookConfigured
            | Self::WebhookSecretRotating
            | Self::TooManyWebhooks
            | Self::BucketExists
            | Self::BucketTaken
            | Self::BucketNotEmpty
            | Self::TooManyBuckets
            | Self::FileIsObject
            | Self::PartsMissing
            | Self::OffsetMismatch
            | Self::Superseded
            | Self::FileProcessing
            | Self::InProgress => 409,
            Self::FileCorrupt
            | Self::FileRejected
            | Self::FileQuarantined
            | Self::FileGone
            | Self::ChallengeGone
            | Self::CursorExpired => 410,
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

    /// The title of problem documents with this code: a short summary without details of the
    /// request.
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
            Self::GrantNotFound => "Upload grant not found",
            Self::WebhookNotFound => "Webhook not found",
            Self::WebhookConfigured => "Webhook in the configuration file",
            Self::WebhookSecretRotating => "Secret of the webhook being rotated",
            Self::TooManyWebhooks => "Too many webhooks",
            Self::BucketNotFound => "Bucket not found",
            Self::BucketExists => "Bucket exists",
            Self::BucketTaken => "Bucket name taken",
            Self::BucketNotEmpty => "Bucket not empty",
            Self::TooManyBuckets => "Too many buckets",
            Self::ObjectNotFound => "Object not found",
            Self::FileIsObject => "File has another key",
            Self::TaskNotFound => "Task not found",
            Self::TaskNotDead => "Task not dead",
            Self::AlreadyStored => "Already stored",
            Self::FileCorrupt => "File corrupt",
            Self::FileProcessing => "File being processed",
            Self::FileRejected => "File rejected",
            Self::FileQuarantined => "File in quarantine",
            Self::KeyReused => "Idempotency key reused",
            Self::InProgress => "In progress",
            Self::UnsupportedMediaType => "Unsupported media type",
            Self::ChallengeGone => "Challenge gone",
            Self::CursorExpired => "Cursor expired",
            Self::PartsMissing => "Parts missing",
            Self::PartTooSmall => "Part too small",
            Self::SizeMismatch => "Size mismatch",
            Self::OffsetMismatch => "Offset mismatch",
            Self::DigestMismatch => "Digest mismatch",
            Self::IncompleteBody => "Incomplete body",
            Self::Superseded => "Superseded",
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
