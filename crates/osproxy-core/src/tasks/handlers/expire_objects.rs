//! Applies the lifecycle rules of buckets: deletes objects that have expired, and aborts multipart
//! uploads that were not completed in time.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use osproxy_meta::{
    DeleteOutcome, LifecycleBucket, ListObjects, ListedObject, ObjectEntry, ObjectUploadRecord, TaskKind,
};
use osproxy_types::uid::Uid;
use serde::{Deserialize, Serialize};

use crate::{
    App, Result,
    buckets::lifecycle::{LifecycleRules, next_midnight},
    tasks::{TaskContext, TaskError, TaskHandler},
};

/// Maximum number of objects or uploads to read in one query.
const PAGE: u64 = 500;
/// Maximum number of objects or uploads that are deleted at the same time.
const CONCURRENT: usize = 8;

/// Handler of the task `expire_objects`.
pub(super) struct ExpireObjects;

impl TaskHandler for ExpireObjects {
    const KIND: TaskKind = TaskKind::ExpireObjects;
    const INTERVAL: Option<Duration> = Some(Duration::from_mins(1));
    type Payload = ();

    async fn run(&self, context: &TaskContext, (): ()) -> Result<(), TaskError> {
        let app = &context.app;
        // Use the clock of the database: if the clock of a node is ahead, that node must not delete
        // objects too early.
        while let Some(bucket) = app.meta.objects.due_lifecycle(app.meta.now_ms()).await? {
            if context.stop.is_cancelled() {
                return Err(TaskError::HandBack);
            }
            // Reads the rules again for every page, because they may have changed.
            walk_page(app, &bucket).await?;
        }
        Ok(())
    }
}

/// How far the rules of a bucket are applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// Whether the walk of the objects is complete, and that of the uploads has begun.
    uploads: bool,
    /// The part of the bucket that is walked.
    prefix: String,
    /// The last key.
    after: String,
    /// The last upload, of those with this key.
    uid: Option<i64>,
}

/// Walks a page of a bucket. After the last page, the rules are due again at midnight.
async fn walk_page(app: &App, bucket: &LifecycleBucket) -> Result<()> {
    let now = app.meta.now_ms();
    let rules = LifecycleRules::parse(Some(&bucket.lifecycle));
    let position = bucket.position.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let position: Position = position.unwrap_or_default();
    let next = if position.uploads {
        walk_uploads(app, bucket, &rules, position, now).await?
    } else {
        walk_objects(app, bucket, &rules, position, now).await?
    };
    let next = next.map(|next| serde_json::to_string(&next)).transpose().map_err(crate::Error::internal)?;
    let due_at = if next.is_some() { bucket.due_at } else { next_midnight(now) };
    app.meta.objects.save_lifecycle(bucket, due_at, next).await?;
    app.task_notifier.notify_cluster();
    Ok(())
}

/// Returns the prefix to walk, and where to continue in it; `None` if all are walked.
fn resume<'p>(prefixes: &[&'p str], position: &Position) -> Option<(&'p str, String)> {
    let prefix = prefixes.iter().find(|prefix| **prefix >= position.prefix.as_str())?;
    Some((prefix, if *prefix == position.prefix { position.after.clone() } else { String::new() }))
}

/// Returns the first prefix behind `prefix`.
fn prefix_after(prefixes: &[&str], prefix: &str) -> Option<String> {
    prefixes.iter().find(|other| **other > prefix).map(|&other| other.to_owned())
}

async fn walk_objects(
    app: &App,
    bucket: &LifecycleBucket,
    rules: &LifecycleRules,
    position: Position,
    now: i64,
) -> Result<Option<Position>> {
    let uploads = Some(Position { uploads: true, ..Position::default() });
    let prefixes = rules.object_prefixes();
    let Some((prefix, after)) = resume(&prefixes, &position) else {
        return Ok(uploads);
    };
    let wanted = ListObjects { prefix: prefix.to_owned(), after, limit: PAGE, ..ListObjects::default() };
    let page = app.meta.objects.list(bucket.id, &wanted).await?;
    let objects = page.entries.into_iter().filter_map(|entry| match entry {
        ObjectEntry::Object(object) => Some(object),
        ObjectEntry::Prefix(_) => None,
    });
    let objects: Vec<_> = objects.collect();
    let last = objects.last().filter(|_| page.is_truncated).map(|object| object.key.clone());
    let is_due = |object: &ListedObject| {
        rules.expiry_of(&object.key, object.size, object.modified_at).is_some_and(|expiry| expiry.at <= now)
    };
    let due = stream::iter(objects.into_iter().filter(is_due));
    let expiries = due.map(|object| async move {
        let task_id = app.uids.next().await?;
        Ok::<_, crate::Error>(app.meta.objects.expire_object(bucket.id, object, task_id).await?)
    });
    let expired = expiries
        .buffer_unordered(CONCURRENT)
        .try_fold(0_u64, async |count, expired| Ok(count + u64::from(expired)));
    let expired = expired.await?;
    if expired > 0 {
        tracing::info!(expired, bucket = bucket.name, "deleted objects by a lifecycle rule");
    }
    Ok(match last {
        Some(after) => Some(Position { prefix: prefix.to_owned(), after, ..Position::default() }),
        None => match prefix_after(&prefixes, prefix) {
            Some(prefix) => Some(Position { prefix, ..Position::default() }),
            None => uploads,
        },
    })
}

async fn walk_uploads(
    app: &App,
    bucket: &LifecycleBucket,
    rules: &LifecycleRules,
    position: Position,
    now: i64,
) -> Result<Option<Position>> {
    let prefixes = rules.upload_prefixes();
    let Some((prefix, after)) = resume(&prefixes, &position) else {
        return Ok(None);
    };
    let uid = position.uid.filter(|_| !after.is_empty()).map(Uid::from_db);
    let page = app.meta.objects.uploads(bucket.id, prefix, (&after, uid), PAGE).await?;
    let last = page.last().map(|upload| Position {
        uploads: true,
        prefix: prefix.to_owned(),
        after: upload.key.clone(),
        uid: Some(upload.uid.get()),
    });
    let is_due = |upload: &ObjectUploadRecord| {
        rules.abort_at(&upload.key, upload.created_at).is_some_and(|at| at <= now)
    };
    let mut aborted = 0_u64;
    for upload in page.iter().filter(|upload| is_due(upload)) {
        let task_id = app.uids.next().await?;
        let outcome = app.meta.uploads.expire_now(upload.uid, task_id).await?;
        aborted += u64::from(outcome == DeleteOutcome::Deleted);
    }
    if aborted > 0 {
        tracing::info!(aborted, bucket = bucket.name, "aborted multipart uploads by a lifecycle rule");
    }
    let next_prefix = prefix_after(&prefixes, prefix);
    Ok(last.or(next_prefix.map(|prefix| Position { uploads: true, prefix, ..Position::default() })))
}
