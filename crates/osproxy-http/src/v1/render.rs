//! Conversion of results of operations to types of API v1.

use osproxy_api::v1;
use osproxy_core::ops::{
    describe_file::{ContentLayout, FileRecord, FileState},
    list_tasks::{TaskRecord, TaskState},
    name_files::ObjectName,
};

use super::time_format::format_time;

/// Renders a file. `name` is its bucket and key, if it is an object.
pub(super) fn file(file: FileRecord, name: Option<ObjectName>) -> v1::File {
    let is_open = matches!(
        file.state,
        FileState::Pending | FileState::Receiving | FileState::Completing | FileState::Partial
    );
    let category = file.category().as_str().to_owned();
    let content = file.content.as_ref();
    let (bucket, key) = name.map(|name| (name.bucket, name.key)).unzip();
    let digests = content.and_then(|content| content.digests.as_ref());
    v1::File {
        uid: file.uid.to_string(),
        state: state(file.state),
        size: file.size,
        received: file.received,
        content_type: content.map(|_| file.content_type),
        category,
        created_at: format_time(file.created_at),
        stored_at: file.stored_at.map(format_time),
        expires_at: is_open.then(|| format_time(file.expires_at)),
        md5: digests.and_then(|digests| digests.md5).map(hex::encode),
        sha256: digests.and_then(|digests| digests.sha256).map(hex::encode),
        blake3: digests.map(|digests| hex::encode(digests.blake3)),
        layout: content.map(|content| match content.layout {
            ContentLayout::Whole(_) => v1::Layout::Whole,
            ContentLayout::Parts => v1::Layout::Parts,
        }),
        name: file.name,
        metadata: file.metadata,
        media: file.media,
        upload_grant: file.grant.map(|grant| grant.to_string()),
        bucket,
        key,
    }
}

pub(super) fn state(state: FileState) -> v1::FileState {
    match state {
        FileState::Pending => v1::FileState::Pending,
        // A partial upload is not listed, and receives content as other uploads do.
        FileState::Receiving | FileState::Partial => v1::FileState::Receiving,
        FileState::Completing => v1::FileState::Completing,
        FileState::Processing => v1::FileState::Processing,
        FileState::Stored => v1::FileState::Stored,
        FileState::Expired => v1::FileState::Expired,
        FileState::Corrupt => v1::FileState::Corrupt,
        FileState::Rejected => v1::FileState::Rejected,
        FileState::Quarantined => v1::FileState::Quarantined,
        FileState::Deleted => v1::FileState::Deleted,
    }
}

/// Inverse of [`state`].
pub(super) fn parse_state(state: v1::FileState) -> FileState {
    match state {
        v1::FileState::Pending => FileState::Pending,
        v1::FileState::Receiving => FileState::Receiving,
        v1::FileState::Completing => FileState::Completing,
        v1::FileState::Processing => FileState::Processing,
        v1::FileState::Stored => FileState::Stored,
        v1::FileState::Expired => FileState::Expired,
        v1::FileState::Corrupt => FileState::Corrupt,
        v1::FileState::Rejected => FileState::Rejected,
        v1::FileState::Quarantined => FileState::Quarantined,
        v1::FileState::Deleted => FileState::Deleted,
    }
}

pub(super) fn task(task: TaskRecord) -> v1::Task {
    // The payload may not be JSON if another version of osproxy enqueued the task, or if the
    // payload could not be serialized. Return such a payload as text.
    let payload = serde_json::from_str(&task.payload).unwrap_or(serde_json::Value::String(task.payload));
    v1::Task {
        id: task.id.to_string(),
        kind: task.kind,
        payload,
        state: match task.state {
            TaskState::Queued => v1::TaskState::Queued,
            TaskState::Running => v1::TaskState::Running,
            TaskState::Done => v1::TaskState::Done,
            TaskState::Dead => v1::TaskState::Dead,
        },
        attempts: task.attempts,
        max_attempts: task.max_attempts,
        created_at: format_time(task.created_at),
        run_at: (task.state == TaskState::Queued).then(|| format_time(task.run_at)),
        lease_owner: task.lease_owner,
        lease_until: task.lease_until.map(format_time),
        ended_at: task.ended_at.map(format_time),
        last_error: task.last_error,
    }
}
