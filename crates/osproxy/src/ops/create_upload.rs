//! Issue uids whose content may be sent from now on.

use std::{sync::Arc, time::Duration};

use osproxy_api::ErrorCode;
use osproxy_storage::Shape;
use time::OffsetDateTime;

pub use super::prove_possession::Challenge;
pub use crate::meta::{Announced, Claims, Metadata};

use super::{
    Tenant, abort_upload::abort_upload, check_expire, delete_file::delete_file, name_of,
    prove_possession::challenge, too_large,
};
use crate::{
    Error, Result,
    app::{App, Beginning, Caller, TakenKey, check_metadata},
    content_type, error,
    meta::{Blob, CreatedFiles, FileState, KnownContent, NewFile, NewUpload},
    metrics::Saving,
    uid::Uid,
};

/// Part size of content up to [`SMOOTH`] such parts, in bytes: a second or so on a slow line, and large enough for stores.
const PART_SIZE: u64 = 8 << 20;
/// From how many parts on they are larger.
const SMOOTH: u64 = 1000;
/// Smallest part size that a client may ask for, in bytes.
const MIN_PART_SIZE: u64 = 64 << 10;
/// How often an upload that was taken back is made anew under one key.
const ROUNDS: usize = 3;
/// Longest MIME type, in bytes.
const MAX_TYPE: usize = 255;

/// A file that somebody wants to send.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Its path on the client; the last component becomes the name.
    pub path: String,
    /// What else is said of it. With a size, a part size is settled; one that is asked for is kept to if it can be.
    pub announced: Announced,
}

/// A file whose content may be sent, or is there already.
#[derive(Debug)]
pub struct CreatedUpload {
    /// Its uid.
    pub uid: Uid,
    /// How many bytes each part has but the last, if the size was announced.
    pub part_size: Option<u64>,
    /// Content with the claimed digests was there, and is the file's: nothing is to be sent.
    pub is_stored: bool,
    /// Such content is there, and becomes the file's if this is answered right.
    pub challenge: Option<Challenge>,
}

/// Files whose content may be sent.
#[derive(Debug)]
pub struct CreatedUploads {
    /// In the order of the wishes.
    pub uploads: Vec<CreatedUpload>,
    /// When they were created; links are dated so.
    pub created_at: OffsetDateTime,
}

/// What a wish comes to.
struct Plan {
    file: NewFile,
    /// Stored content that has the claimed digests.
    known: Option<Blob>,
}

/// Creates one file of the caller's tenant, in state `pending`, for each wish, whose links shall hold `expire` seconds. All are recorded, durably,
/// or none. What is announced of them is charged to the tenant's quota, and is an error where that has not so much left. Where a digest is claimed and content that has it is stored, the file has that at once, or, with
/// `uploads.prove_possession`, once the client has shown to have it. Where parts lie in the object to be, room for all of
/// it is kept: when there is none, that is an error, and nothing stays. Not where the client is asked to show that it has the
/// content.
///
/// Under a key there is one wish, whose file is created once, under the uid that is reserved there.
pub async fn create_upload(
    app: &Arc<App>,
    caller: &Caller,
    wishes: Vec<Wish>,
    expire: i64,
    key: Option<&TakenKey>,
) -> Result<CreatedUploads> {
    check_expire(app, expire)?;
    app.must_keep_up(Beginning::Upload)?;
    app.must_leave_free(0).await?;
    app.must_complete_uploads(&caller.tenant, wishes.len() as u64).await?;
    let created_at = OffsetDateTime::now_utc();
    let lapses = created_at + Duration::from_secs(expire.unsigned_abs());
    let wanted = checked(app, caller, wishes)?;
    let mut plans = Vec::with_capacity(wanted.len());
    for (name, announced) in wanted {
        let uid = match key {
            Some(key) => key.uid(),
            None => app.next_uid().await?,
        };
        let file = NewFile { uid, tenant: caller.tenant.clone(), name, announced };
        let known = known_content(app, &file).await?;
        // Who does not tell the size is not told it.
        let known = known.filter(|_| !app.limits.prove_possession || file.announced.size.is_some());
        if let (Some(max), Some(blob)) = (caller.max_size, &known)
            && blob.digests.size > max
        {
            return Err(too_large(max));
        }
        plans.push(Plan { file, known });
    }
    if plans.is_empty() {
        return Ok(CreatedUploads { uploads: Vec::new(), created_at });
    }
    let Recorded { stored, before } = record(app, &mut plans, lapses, key).await?;
    let plan_of = |(plan, is_stored): (&Plan, &bool)| CreatedUpload {
        uid: plan.file.uid,
        part_size: plan.file.announced.part_size,
        is_stored: *is_stored,
        challenge: None,
    };
    let mut uploads: Vec<_> = plans.iter().zip(&stored).map(plan_of).collect();
    for (plan, upload) in plans.iter().zip(&mut uploads).filter(|(_, upload)| !upload.is_stored) {
        match prepare(app, plan).await {
            Ok(challenge) => upload.challenge = challenge,
            Err(error) => {
                take_back(app, &plans, &stored, key).await;
                return Err(error);
            }
        }
    }
    Ok(CreatedUploads { uploads, created_at: before.unwrap_or(created_at) })
}

/// Names, and what is announced, of uploads that may be created.
fn checked(app: &App, caller: &Caller, wishes: Vec<Wish>) -> Result<Vec<(String, Announced)>> {
    let mut wanted = Vec::with_capacity(wishes.len());
    for Wish { path, mut announced } in wishes {
        let name = name_of(&path)?.to_owned();
        check_metadata(&announced.metadata)?;
        if announced.content_type.as_deref().is_some_and(|given| !is_mime_type(given)) {
            let message = format!("`content_type` must be a MIME type of at most {MAX_TYPE} bytes");
            return Err(Error::invalid(message).with_field("content_type"));
        }
        announced.part_size = part_size(app, caller, &announced)?;
        wanted.push((name, announced));
    }
    Ok(wanted)
}

/// What was recorded of plans.
struct Recorded {
    /// Of each, whether it is stored.
    stored: Vec<bool>,
    /// When an earlier attempt at the same request recorded it, if one did.
    before: Option<OffsetDateTime>,
}

/// Records what is planned, all or nothing.
async fn record(
    app: &Arc<App>,
    plans: &mut [Plan],
    lapses: OffsetDateTime,
    key: Option<&TakenKey>,
) -> Result<Recorded> {
    for _ in 0..ROUNDS {
        let uploads = plans.iter().map(|plan| new_upload(app, plan)).collect();
        match app.meta.create_files(uploads, lapses.unix_timestamp() * 1000).await? {
            CreatedFiles::All(stored) => {
                count(app, plans, &stored);
                return Ok(Recorded { stored, before: None });
            }
            CreatedFiles::OverQuota => return Err(Error::over_quota()),
            CreatedFiles::Exists => {}
        }
        let (Some(key), [Plan { file, .. }]) = (key, &mut *plans) else {
            return Err(Error::internal("a uid was issued twice"));
        };
        // An earlier attempt at the same request has made it: that is the answer, unless it was taken back.
        match earlier(app, file).await? {
            Some(recorded) => return Ok(recorded),
            None => file.uid = app.reserve_uid(key).await?,
        }
    }
    Err(Error::unavailable("the upload was taken back too often"))
}

/// The upload that an earlier attempt has made under the uid of a file; `None` if it is gone.
async fn earlier(app: &App, file: &mut NewFile) -> Result<Option<Recorded>> {
    let found = app.meta.describe_file(file.uid).await?;
    let status = app.meta.upload_status(file.uid).await?;
    let Some((found, status)) = found.filter(|found| found.tenant == file.tenant).zip(status) else {
        return Ok(None);
    };
    if matches!(found.state, FileState::Expired | FileState::Deleted) {
        return Ok(None);
    }
    // Settled by the configuration of that moment.
    file.announced.part_size = status.part_size;
    let before = OffsetDateTime::from_unix_timestamp(found.created_at.div_euclid(1000));
    let before = Some(before.map_err(Error::internal)?);
    Ok(Some(Recorded { stored: vec![found.state == FileState::Stored], before }))
}

fn new_upload(app: &App, Plan { file, known }: &Plan) -> NewUpload {
    let known = known.as_ref().filter(|_| !app.limits.prove_possession).map(|blob| {
        let content_type = file.announced.content_type.clone();
        let content_type =
            content_type.unwrap_or_else(|| content_type::of_file(blob.sniffed.as_deref(), &file.name));
        KnownContent { blob_id: blob.id, size: blob.digests.size, content_type }
    });
    NewUpload { file: file.clone(), known }
}

/// Counts what need not be sent, and what was asked for and was not there.
fn count(app: &App, plans: &[Plan], stored: &[bool]) {
    for (Plan { file, known }, is_stored) in plans.iter().zip(stored) {
        match known {
            Some(blob) if *is_stored => app.metrics.shared(Saving::Instant, blob.digests.size),
            // The client is asked to show that it has it.
            Some(_) if app.limits.prove_possession => {}
            _ if file.announced.claims != Claims::default() => app.metrics.not_there(),
            _ => {}
        }
    }
}

/// Readies what the content of a recorded file needs: room, or a challenge where it is likely not to be sent. Its room is
/// then kept when its first part comes.
async fn prepare(app: &Arc<App>, Plan { file, known }: &Plan) -> Result<Option<Challenge>> {
    if let Some(blob) = known.as_ref().filter(|_| app.limits.prove_possession) {
        return challenge(app, file.uid, blob).await.map(Some);
    }
    if let Some(size) = file.announced.size.filter(|_| app.stores.have_places()) {
        app.must_leave_free(size).await?;
    }
    if has_several_parts(file) {
        app.reserve(file.uid, &file.tenant).await?;
    }
    Ok(None)
}

/// Gives files up whose client is told of an error, unless another attempt at the same request goes on with them. What this
/// cannot take back lapses.
async fn take_back(app: &Arc<App>, plans: &[Plan], stored: &[bool], key: Option<&TakenKey>) {
    let is_ours = match key {
        Some(key) => app.hold_key(key).await,
        None => Ok(true),
    };
    for (Plan { file, .. }, is_stored) in plans.iter().zip(stored) {
        let taken_back = match &is_ours {
            Ok(false) => return,
            Ok(true) if *is_stored => delete_file(app, &file.tenant, file.uid).await,
            Ok(true) => abort_upload(app, file.uid).await,
            Err(error) => {
                tracing::warn!(uid = %file.uid, error = error::chain(error), "cannot take an upload back yet");
                return;
            }
        };
        if let Err(left) = taken_back {
            tracing::warn!(uid = %file.uid, error = error::chain(&left), "cannot take an upload back yet");
        }
    }
}

fn has_several_parts(file: &NewFile) -> bool {
    let Announced { size, part_size, .. } = file.announced;
    size.zip(part_size).is_some_and(|(size, part_size)| Shape { size, part_size }.parts() > 1)
}

/// Stored content that has the claimed digests, all of them.
async fn known_content(app: &App, file: &NewFile) -> Result<Option<Blob>> {
    let Announced { claims, size, .. } = &file.announced;
    let Some(blob) = stored_content(app, &file.tenant, claims).await? else {
        return Ok(None);
    };
    let is_meant =
        size.is_none_or(|size| size == blob.digests.size) && claims.refuted_by(&blob.digests).is_none();
    Ok(if is_meant && app.is_intact(&blob).await? { Some(blob) } else { None })
}

async fn stored_content(app: &App, tenant: &Tenant, claims: &Claims) -> Result<Option<Blob>> {
    // The digests that cannot be made up come first.
    Ok(match claims {
        Claims { blake3: Some(blake3), .. } => app.meta.blob_by_blake3(tenant, *blake3).await?,
        Claims { sha256: Some(sha256), .. } => app.meta.blob_by_sha256(tenant, *sha256).await?,
        Claims { md5: Some(md5), .. } => app.meta.blob_by_md5(tenant, *md5).await?,
        _ => None,
    })
}

/// Settles how large parts are of content whose size is announced.
fn part_size(app: &App, caller: &Caller, announced: &Announced) -> Result<Option<u64>> {
    let limits = &app.limits;
    let Some(size) = announced.size else {
        let alone = Error::invalid("`part_size` goes with `size`").with_field("part_size");
        return if announced.part_size.is_some() { Err(alone) } else { Ok(None) };
    };
    let max_size = caller.max_size.map_or(limits.max_size, |max| max.min(limits.max_size));
    if size > max_size {
        let message = format!("a file must not be larger than {max_size} bytes");
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    let smallest = app.stores.min_part_size().max(MIN_PART_SIZE);
    let largest = prev_power_of_two(limits.max_part_size);
    let fewest = |parts: u64| size.div_ceil(parts.max(1)).next_power_of_two();
    let least = smallest.next_power_of_two().max(fewest(limits.max_parts.into()));
    if least > largest {
        let message = "the content is too large for the number and size of parts that are allowed";
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    match announced.part_size {
        None => Ok(Some(PART_SIZE.max(fewest(SMOOTH)).clamp(least, largest))),
        Some(wanted) if wanted.is_power_of_two() && (least..=largest).contains(&wanted) => Ok(Some(wanted)),
        Some(_) => {
            let message = format!(
                "`part_size` of content of this size must be a power of two from {least} to {largest}"
            );
            Err(Error::invalid(message).with_field("part_size"))
        }
    }
}

fn prev_power_of_two(number: u64) -> u64 {
    number.checked_ilog2().map_or(0, |exponent| 1 << exponent)
}

/// Whether a text can stand as the type of content: it goes into a header as it is.
fn is_mime_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let is_token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    let has_form = essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
    has_form && text.len() <= MAX_TYPE && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mime_types_are_taken() {
        for good in ["text/plain", "text/plain; charset=utf-8", "application/vnd.api+json"] {
            assert!(is_mime_type(good), "{good}");
        }
        for bad in ["", "text", "text/", "/plain", "a b/c", "text/plain\r\nx: y", "text/plain; a=\u{e9}"] {
            assert!(!is_mime_type(bad), "{bad:?}");
        }
    }
}
