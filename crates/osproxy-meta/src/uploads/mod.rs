//! Upload sessions: writes of whole content and of parts, completion, expiry, reservations.

pub(crate) mod append;
pub(crate) mod complete_parts;
pub(crate) mod concatenation;
pub(crate) mod expected_digests;
pub(crate) mod expiry;
pub(crate) mod finish_store_multipart;
pub(crate) mod inspection;
pub(crate) mod multipart;
pub(crate) mod packed;
pub(crate) mod parts;
pub(crate) mod placement;
pub(crate) mod possession;
pub(crate) mod receiving_blob;
pub(crate) mod reservations;
pub(crate) mod status;
pub(crate) mod whole;

use std::sync::Arc;

use crate::db::database::Database;

/// Handle for upload sessions: writes of whole content and of parts, completion, expiry,
/// reservations.
#[derive(Clone)]
pub struct UploadDb {
    pub(crate) db: Arc<Database>,
}
