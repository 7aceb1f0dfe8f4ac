//! JSON of API v1: `/api/v1` for applications, `/f` for the holders of download links.
//!
//! Field names are `snake_case`, uids are decimal strings, digests are lower-case hexadecimal, and
//! timestamps are RFC 3339 in UTC with three decimals: `2026-11-22T12:00:00.000Z`. A field is
//! omitted while its value is not known.

mod bucket;
mod event;
mod file;
mod link;
mod node;
mod problem;
mod stats;
mod task;
mod upload;
mod upload_grant;
mod webhook;

pub use bucket::{
    AttachObjectRequest, Bucket, BucketSettings, BucketSummary, Buckets, CorsRule, LifecycleRule,
};
pub use event::{Event, EventData, EventType, Events, MAX_EVENTS};
pub use file::{
    CopiedFile, CopyFileRequest, DEFAULT_PAGE, File, FileState, FileUid, Files, Layout, MAX_METADATA_BYTES,
    MAX_METADATA_KEY, MAX_METADATA_KEYS, MAX_METADATA_VALUE, MAX_PAGE, MetadataChanges, UpdateFileRequest,
};
pub use link::{CreateLinkRequest, CreateLinksRequest, CreatedLink, CreatedLinks, Disposition, FileLink};
pub use node::{Node, NodeLoad, Nodes};
pub use problem::{CONTENT_TYPE as PROBLEM, Problem, ProblemMembers};
pub use stats::Stats;
pub use task::{Task, TaskAttempt, TaskDetails, TaskState, Tasks};
pub use upload::{
    ByteRange, Challenge, CompleteUploadRequest, Constraints, CreateUploadLinksRequest, CreateUploadRequest,
    CreatedState, CreatedUpload, CreatedUploadLinks, OneOrMore, ProofRequest, UploadLinks, UploadState,
    UploadStatus,
};
pub use upload_grant::{
    CreateUploadGrantRequest, UploadGrant, UploadGrantLinks, UploadGrantState, UploadGrants,
};
pub use webhook::{
    CreateWebhookRequest, ReplayWebhookRequest, ReplayedState, RotateWebhookSecretRequest,
    UpdateWebhookRequest, Webhook, WebhookDeliveries, WebhookDelivery, WebhookDeliveryState, WebhookReplay,
    WebhookState, WebhookTest, Webhooks,
};

/// Path prefix of the routes for applications.
pub const PREFIX: &str = "/api/v1";

/// Path prefix of download links.
pub const LINKS: &str = "/f";

/// Request header that makes a POST idempotent: up to [`MAX_IDEMPOTENCY_KEY`] bytes of visible
/// ASCII, chosen by the client.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Response header with the value `true`. It marks a response that was recorded for an earlier
/// request with the same idempotency key.
pub const IDEMPOTENCY_REPLAYED: &str = "idempotency-replayed";

/// Maximum length of an idempotency key in bytes.
pub const MAX_IDEMPOTENCY_KEY: usize = 255;
