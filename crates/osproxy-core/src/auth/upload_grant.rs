//! Upload grants: anyone who has the URL of a grant can create uploads of its tenant.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use osproxy_api::ErrorCode;
use osproxy_meta::{AccessDb, FileMetadata};
use osproxy_types::uid::Uid;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};

pub use osproxy_meta::{GrantRecord, GrantRefusal};

use crate::{
    Error, Result,
    links::{CountedLimit, LinkConstraints},
};

/// How long a cached grant is used before it is read again. Links of a revoked grant work for at
/// most this time.
const CACHE_TTL: Duration = Duration::from_secs(4);
/// Maximum number of cached grants. Most are small, but one can have 10 KiB.
const CACHE_CAPACITY: usize = 1000;

/// An upload grant.
#[derive(Clone, Debug)]
pub struct UploadGrant {
    /// The grant as stored.
    pub record: GrantRecord,
    /// What the uploads may be: the parsed terms of the record.
    pub terms: GrantTerms,
}

/// What the uploads under a grant may be, and what they get.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GrantTerms {
    /// Maximum size of a file, in bytes; `None`: no limit for this grant.
    pub max_size: Option<u64>,
    /// MIME types, or families such as `image/*`, one of which the content must have. If empty, all
    /// types are allowed.
    pub content_types: Vec<String>,
    /// Networks from which the grant and its links may be used. If empty, all networks are allowed.
    pub networks: Vec<IpNet>,
    /// Prefix of the names of the files.
    pub name_prefix: String,
    /// Metadata of the files. Replaces metadata of the client with the same keys.
    pub metadata: FileMetadata,
    /// Maximum concurrent transfers with all links of the API key that created the grant.
    pub transfers: Option<CountedLimit>,
}

impl UploadGrant {
    /// Parses the terms of a record.
    pub fn from_record(record: GrantRecord) -> Result<Self> {
        let terms = serde_json::from_str(&record.terms).map_err(Error::internal)?;
        Ok(Self { record, terms })
    }

    /// MIME types or families, separated by commas, one of which the content must have.
    pub(crate) fn required_types(&self) -> Option<String> {
        let types = &self.terms.content_types;
        (!types.is_empty()).then(|| types.join(","))
    }

    /// The constraints of the links of uploads under the grant.
    pub(crate) fn link_constraints(&self) -> LinkConstraints {
        let GrantTerms { max_size, networks, transfers, .. } = &self.terms;
        LinkConstraints {
            max_size: *max_size,
            content_type: self.required_types(),
            networks: networks.clone(),
            transfers: transfers.clone(),
            // Metadata that the application sets is not for the holders of its grants.
            shows_metadata: false,
            grant: Some(self.record.id.get()),
            ..LinkConstraints::default()
        }
    }
}

/// The error for a grant that does not allow an upload.
pub(crate) fn grant_error(refusal: GrantRefusal) -> Error {
    let (code, message) = match refusal {
        GrantRefusal::Revoked => (ErrorCode::LinkRevoked, "this upload grant was revoked"),
        GrantRefusal::Expired => (ErrorCode::LinkExpired, "this upload grant has expired"),
        GrantRefusal::UsedUp => (ErrorCode::LinkUsedUp, "this upload grant allows no more uploads"),
    };
    Error::new(code, message)
}

/// Looks up upload grants, with a cache.
pub(crate) struct GrantCache {
    db: AccessDb,
    grants: Cache<Uid, (Instant, Option<Arc<UploadGrant>>)>,
}

impl GrantCache {
    pub(crate) fn new(db: AccessDb) -> Self {
        Self { db, grants: Cache::new(CACHE_CAPACITY) }
    }

    /// Returns a grant that is not revoked. It, or the API key that created it, may have been revoked in
    /// the last four seconds, and it may have expired. Fails with `LinkRevoked` if it is revoked or
    /// unknown.
    pub(crate) async fn get(&self, id: Uid) -> Result<Arc<UploadGrant>> {
        let grant = match self.grants.get(&id) {
            Some((read_at, grant)) if read_at.elapsed() < CACHE_TTL => grant,
            _ => {
                let read_at = Instant::now();
                let mut record = self.db.grant(id).await?;
                // The grants of a revoked key are revoked.
                if let Some(key) = record.as_ref().and_then(|record| record.api_key.as_deref())
                    && self.db.api_key(key).await?.is_none_or(|key| key.revoked_at.is_some())
                {
                    record = None;
                }
                let grant = record.map(UploadGrant::from_record).transpose()?.map(Arc::new);
                self.grants.insert(id, (read_at, grant.clone()));
                grant
            }
        };
        grant
            .filter(|grant| grant.record.revoked_at.is_none())
            .ok_or_else(|| grant_error(GrantRefusal::Revoked))
    }

    /// Reads a grant again when it is needed next.
    pub(crate) fn forget(&self, id: Uid) {
        self.grants.remove(&id);
    }
}
