//! Conversion of results of operations into messages.

use bytes::Bytes;
use osproxy_api::grpc::v1;
use osproxy_core::ops::{
    describe_file::{ContentLayout, FileRecord, FileState},
    list_tasks::{TaskRecord, TaskState},
    upload_status::UploadProgress,
};
use osproxy_types::uid::Uid;
use prost_types::Timestamp;

/// Converts milliseconds since the Unix epoch to a timestamp.
pub(super) fn timestamp(ms: i64) -> Timestamp {
    let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).unwrap_or_default();
    Timestamp { seconds: ms.div_euclid(1000), nanos }
}

fn bytes(digest: &[u8]) -> Bytes {
    Bytes::copy_from_slice(digest)
}

/// The response for a new file if the caller lacks the scope `read`.
pub(super) fn unread_file(uid: Uid) -> v1::File {
    v1::File { uid: uid.to_string(), ..v1::File::default() }
}

pub(super) fn file(file: FileRecord) -> v1::File {
    let is_open = matches!(
        file.state,
        FileState::Pending | FileState::Receiving | FileState::Completing | FileState::Partial
    );
    let category = file.category().as_str().to_owned();
    let content = file.content.as_ref();
    let digests = content.and_then(|content| content.digests.as_ref());
    let layout = content.map_or(v1::Layout::Unspecified, |content| match content.layout {
        ContentLayout::Whole(_) => v1::Layout::Whole,
        ContentLayout::Parts => v1::Layout::Parts,
    });
    v1::File {
        uid: file.uid.to_string(),
        state: state(file.state).into(),
        size: file.size,
        received: file.received,
        content_type: content.map(|_| file.content_type).unwrap_or_default(),
        category,
        created_at: Some(timestamp(file.created_at)),
        stored_at: file.stored_at.map(timestamp),
        expires_at: is_open.then(|| timestamp(file.expires_at)),
        digests: digests.map(|digests| v1::Digests {
            md5: digests.md5.map(|md5| bytes(&md5)).unwrap_or_default(),
            sha256: digests.sha256.map(|sha256| bytes(&sha256)).unwrap_or_default(),
            blake3: bytes(&digests.blake3),
        }),
        layout: layout.into(),
        name: file.name,
        metadata: file.metadata.into_iter().collect(),
    }
}

pub(super) fn state(state: FileState) -> v1::FileState {
    match state {
        FileState::Pending => v1::FileState::Pending,
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

pub(super) fn upload(uid: Uid, status: UploadProgress) -> v1::Upload {
    v1::Upload {
        uid: uid.to_string(),
        state: state(status.state).into(),
        size: status.size,
        part_size: status.part_size,
        parts: status.parts,
        received: status.received,
    }
}

pub(super) fn task(task: TaskRecord) -> v1::Task {
    let state = match task.state {
        TaskState::Queued => v1::TaskState::Queued,
        TaskState::Running => v1::TaskState::Running,
        TaskState::Done => v1::TaskState::Done,
        TaskState::Dead => v1::TaskState::Dead,
    };
    v1::Task {
        id: task.id.to_string(),
        kind: task.kind,
        payload: task.payload,
        state: state.into(),
        attempts: task.attempts.unsigned_abs(),
        max_attempts: task.max_attempts.unsigned_abs(),
        created_at: Some(timestamp(task.created_at)),
        run_at: (task.state == TaskState::Queued).then(|| timestamp(task.run_at)),
        lease_owner: task.lease_owner.unwrap_or_default(),
        lease_until: task.lease_until.map(timestamp),
        ended_at: task.ended_at.map(timestamp),
        last_error: task.last_error.unwrap_or_default(),
    }
}
