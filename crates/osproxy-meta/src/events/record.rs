//! Recording of events within the transaction of a change.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use osproxy_storage::Digests;
use osproxy_types::timestamp;
use sea_orm::{ActiveValue::NotSet, ActiveValue::Set, DatabaseTransaction, DbErr, EntityTrait};
use serde::Serialize;

use crate::{
    EventDb, EventKind, EventSource, FileMetadata, MetaError, boxed_future,
    db::{
        database::Database,
        entities::{blob, event, file},
    },
    events::signal::EventSignal,
    files::listing,
    objects::{ObjectName, names::present_and_future_names_of},
};

/// Maximum length of a payload in bytes. If the metadata does not fit, the payload omits it.
const MAX_PAYLOAD: usize = 20_000;

/// Maximum number of events that one statement inserts.
const MAX_ROWS: usize = 100;

/// Records the events of one change. Create it before the transaction, so that it knows the
/// interface that causes the change. When the last clone is dropped, which is after the transaction
/// has ended, it wakes those who wait for events.
#[derive(Clone)]
pub(crate) struct EventRecorder(Arc<RecorderState>);

struct RecorderState {
    is_enabled: bool,
    source: EventSource,
    /// The time of the database's clock, in milliseconds since the Unix epoch.
    now: i64,
    has_recorded: AtomicBool,
    signal: Arc<EventSignal>,
}

impl Drop for RecorderState {
    fn drop(&mut self) {
        if *self.has_recorded.get_mut() {
            self.signal.recorded();
        }
    }
}

/// What is known about the content of a file.
#[derive(Clone, Copy, Default)]
pub(crate) struct EventContent<'a> {
    pub(crate) size: Option<u64>,
    pub(crate) md5: Option<&'a [u8]>,
    pub(crate) sha256: Option<&'a [u8]>,
    pub(crate) blake3: Option<&'a [u8]>,
}

impl<'a> EventContent<'a> {
    pub(crate) fn of_digests(digests: &'a Digests) -> Self {
        Self {
            size: Some(digests.size),
            md5: digests.md5.as_ref().map(|digest| &digest[..]),
            sha256: digests.sha256.as_ref().map(|digest| &digest[..]),
            blake3: Some(&digests.blake3),
        }
    }

    /// The content of a stored blob. Only computed digests count, not those that a client expects.
    pub(crate) fn of_blob(blob: &'a blob::Model) -> Self {
        Self {
            size: Some(blob.size.unsigned_abs()),
            md5: blob.md5.as_deref(),
            sha256: blob.sha256.as_deref(),
            blake3: blob.blake3.as_deref(),
        }
    }

    /// The content that the client has announced.
    pub(crate) fn announced(file: &file::Model) -> Self {
        Self { size: file.announced_size.map(i64::unsigned_abs), ..Self::default() }
    }
}

/// Returns the blob of a file, if the file is stored, to describe its content in an event.
pub(crate) async fn stored_blob(
    transaction: &DatabaseTransaction,
    file: &file::Model,
) -> Result<Option<blob::Model>, DbErr> {
    match file.blob_id.filter(|_| file.state == file::State::Stored) {
        Some(blob_id) => blob::Entity::find_by_id(blob_id).one(transaction).await,
        None => Ok(None),
    }
}

/// An event about a file.
#[derive(Clone, Copy)]
pub(crate) struct FileEvent<'a> {
    pub(crate) kind: EventKind,
    /// The file after the change.
    pub(crate) file: &'a file::Model,
    pub(crate) content: EventContent<'a>,
    /// Why a file was refused.
    pub(crate) reason: Option<&'a str>,
    /// The name before it was changed.
    pub(crate) old_name: Option<&'a str>,
    /// The bucket and key of the file; `None`: look them up.
    pub(crate) object: Option<&'a ObjectName>,
}

impl<'a> FileEvent<'a> {
    pub(crate) fn new(kind: EventKind, file: &'a file::Model, content: EventContent<'a>) -> Self {
        Self { kind, file, content, reason: None, old_name: None, object: None }
    }
}

/// The payload of an event about a file. `osproxy_api::v1::EventData` describes its fields.
#[derive(Serialize)]
struct FilePayload<'a> {
    uid: String,
    tenant: &'a str,
    source: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_name: Option<&'a str>,
    category: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    content_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    md5: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blake3: Option<String>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upload_grant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<FileMetadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// The payload of `quota.exceeded`.
#[derive(Serialize)]
struct TenantPayload<'a> {
    tenant: &'a str,
}

impl EventRecorder {
    /// Whether events are recorded at all.
    pub(crate) fn is_enabled(&self) -> bool {
        self.0.is_enabled
    }

    fn row(&self, kind: EventKind, tenant: &str, uid: Option<i64>, payload: String) -> event::ActiveModel {
        event::ActiveModel {
            id: NotSet,
            position: Set(None),
            tenant: Set(tenant.to_owned()),
            kind: Set(kind.name().to_owned()),
            uid: Set(uid),
            created_at: Set(self.0.now),
            payload: Set(payload),
        }
    }

    /// Returns the row of an event about a file.
    pub(crate) fn file_row(&self, event: FileEvent<'_>) -> Result<event::ActiveModel, DbErr> {
        let FileEvent { kind, file, content, reason, old_name, object } = event;
        let hex = |digest: Option<&[u8]>| digest.map(hex::encode);
        let mut payload = FilePayload {
            uid: file.uid.to_string(),
            tenant: &file.tenant,
            source: self.0.source.name(),
            name: &file.name,
            old_name,
            category: &file.category,
            size: content.size,
            content_type: &file.content_type,
            md5: hex(content.md5),
            sha256: hex(content.sha256),
            blake3: hex(content.blake3),
            created_at: timestamp::rfc3339(file.created_at),
            stored_at: file.stored_at.filter(|_| file.state == file::State::Stored).map(timestamp::rfc3339),
            upload_grant: file.grant_id.map(|id| id.to_string()),
            bucket: object.map(|object| &*object.bucket),
            key: object.map(|object| &*object.key),
            // Metadata that cannot be decoded must not prevent the change.
            metadata: listing::decode_metadata(file).ok(),
            reason,
        };
        let mut json = encode(&payload)?;
        if json.len() > MAX_PAYLOAD {
            payload.metadata = None;
            json = encode(&payload)?;
        }
        Ok(self.row(kind, &file.tenant, Some(file.uid), json))
    }

    /// Records events about files. Call it while the transaction holds the lock on each file's row,
    /// so that the ids of the events of a file ascend.
    pub(crate) async fn record_files<'e>(
        &self,
        transaction: &DatabaseTransaction,
        events: impl IntoIterator<Item = FileEvent<'e>> + Send,
    ) -> Result<(), DbErr> {
        if !self.0.is_enabled {
            return Ok(());
        }
        let events: Vec<_> = events.into_iter().collect();
        let unnamed = events.iter().filter(|event| event.object.is_none() && event.file.bucket_id.is_some());
        let unnamed = unnamed.map(|event| event.file.uid).collect();
        let names = present_and_future_names_of(transaction, unnamed).await?;
        let row = |event: FileEvent<'_>| {
            let object = event.object.or_else(|| names.get(&event.file.uid));
            self.file_row(FileEvent { object, ..event })
        };
        let rows: Result<Vec<_>, _> = events.into_iter().map(row).collect();
        self.insert(transaction, rows?).await
    }

    /// Records that requests of these tenants were refused because of their quota.
    async fn record_exceeded_quotas(
        &self,
        transaction: &DatabaseTransaction,
        tenants: &[String],
    ) -> Result<(), DbErr> {
        let row = |tenant: &String| {
            let payload = encode(&TenantPayload { tenant })?;
            Ok(self.row(EventKind::QuotaExceeded, tenant, None, payload))
        };
        self.insert(transaction, tenants.iter().map(row).collect::<Result<_, DbErr>>()?).await
    }

    /// Inserts the rows of events.
    pub(crate) async fn insert(
        &self,
        transaction: &DatabaseTransaction,
        mut rows: Vec<event::ActiveModel>,
    ) -> Result<(), DbErr> {
        if !self.0.is_enabled || rows.is_empty() {
            return Ok(());
        }
        // Databases limit the parameters of a statement.
        while !rows.is_empty() {
            let rest = rows.split_off(rows.len().min(MAX_ROWS));
            event::Entity::insert_many(rows).exec_without_returning(transaction).await?;
            rows = rest;
        }
        self.0.has_recorded.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl EventDb {
    /// Records an event for each tenant whose quota has refused a request of this node; at most one
    /// per tenant and hour.
    #[boxed_future]
    pub async fn record_exceeded_quotas(&self) -> Result<(), MetaError> {
        let tenants = self.db.quotas.take_exceeded();
        if tenants.is_empty() || !self.db.records_events {
            return Ok(());
        }
        let (recorder, exceeded) = (self.db.event_recorder(), tenants.clone());
        let recording = self.db.write(move |transaction| {
            let (tenants, recorder) = (exceeded.clone(), recorder.clone());
            Box::pin(async move { recorder.record_exceeded_quotas(transaction, &tenants).await })
        });
        let outcome = recording.await;
        if outcome.is_err() {
            self.db.quotas.put_back_exceeded(tenants);
        }
        outcome
    }
}

fn encode(payload: &impl Serialize) -> Result<String, DbErr> {
    serde_json::to_string(payload).map_err(|error| DbErr::Custom(format!("cannot encode an event: {error}")))
}

impl Database {
    /// Creates a recorder for a change that the current request or task makes.
    pub(crate) fn event_recorder(&self) -> EventRecorder {
        EventRecorder(Arc::new(RecorderState {
            is_enabled: self.records_events,
            source: EventSource::current(),
            now: self.clock.now_ms(),
            has_recorded: AtomicBool::new(false),
            signal: self.event_signal.clone(),
        }))
    }
}
