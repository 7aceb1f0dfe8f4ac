//! The operations of the service, independent of the protocol. Each operation is in a separate
//! file.

pub mod abort_upload;
pub mod append_upload;
pub mod attach_object;
pub mod buckets;
pub mod check_health;
mod checks;
pub mod choose_part_node;
pub mod complete_upload;
pub mod concatenate_uploads;
pub mod copy_file;
pub mod copy_object;
pub mod create_download_link;
pub mod create_link;
pub mod create_upload;
pub mod create_upload_grant;
pub mod create_upload_links;
pub mod create_webhook;
pub mod delete_file;
pub mod delete_object;
pub mod delete_webhook;
pub mod describe_file;
pub mod describe_service;
pub mod describe_task;
pub mod describe_upload_grant;
pub mod describe_webhook;
pub mod download_file;
pub mod find_object;
mod handles;
pub mod instant_upload;
pub mod list_events;
pub mod list_files;
pub mod list_nodes;
pub mod list_objects;
pub mod list_tasks;
pub mod list_upload_grants;
pub mod list_webhook_deliveries;
pub mod list_webhooks;
pub mod locate_content;
pub mod name_files;
pub mod object_uploads;
pub mod prove_possession;
pub mod put_object;
pub mod replay_webhook;
pub mod retry_task;
pub mod revoke_links;
pub mod revoke_upload_grant;
pub mod rotate_webhook_secret;
pub mod store_file;
pub mod test_webhook;
pub mod update_file;
pub mod update_object;
pub mod update_webhook;
pub mod upload_file;
pub mod upload_part;
pub mod upload_status;
pub mod watch_events;

use std::sync::{Arc, OnceLock};

use osproxy_meta::ExpectedDigests;
use osproxy_storage::DigestSelection;
pub use osproxy_types::tenant::Tenant;

pub use crate::links::LinkConstraints;
pub use crate::webhooks::WebhookOps;
pub(crate) use checks::{
    check_content_type, content_type_error, object_refusal_error, state_error, too_large_error,
    unknown_bucket_error, unknown_object_error, unknown_uid_error,
};
pub use checks::{check_expire, file_name};
pub(crate) use create_upload::DEFAULT_PART_SIZE;
pub use handles::{FileOps, TaskOps, UploadOps};

/// Options of a request that sends content.
#[derive(Clone, Debug, Default)]
pub struct UploadOptions {
    /// Expected digests in the request.
    pub expected: ExpectedDigests,
    /// Digests to compute in addition to BLAKE3 and the expected digests. Only `md5` has an effect.
    pub digests: DigestSelection,
    /// Constraints of the link.
    pub constraints: LinkConstraints,
    /// Checksums to record with a part, in a format of the caller.
    pub checksums: Option<LateChecksums>,
}

/// Checksums that are known when the whole body was read.
pub type LateChecksums = Arc<OnceLock<String>>;
