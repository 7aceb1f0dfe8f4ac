//! Create download links.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use osproxy_meta::{FileState, StoredFile};
use osproxy_types::uid::Uid;
use time::OffsetDateTime;

use super::{
    FileOps, Tenant, check_expire, download_file::own_file, file_name, state_error, unknown_uid_error,
};
use crate::{Error, Result, boxed_future, links::LinkPeriod};

/// Parameters of a download link.
#[derive(Debug)]
pub struct DownloadLinkSpec {
    /// Name under which clients save the file.
    pub filename: String,
    /// Validity period of the link.
    pub period: LinkPeriod,
}

/// Returns the parameters of a download link to a complete file of `tenant`. The link is valid for
/// at least `expires_in` seconds. `filename` defaults to the name of the file, adapted if it cannot
/// be the last segment of a URL.
#[boxed_future]
pub async fn create_link(
    files: &FileOps,
    tenant: &Tenant,
    uid: Uid,
    expires_in: i64,
    filename: Option<&str>,
) -> Result<DownloadLinkSpec> {
    let period = link_period(files, expires_in)?;
    let given = filename.map(file_name).transpose().map_err(|error| error.with_field("filename"))?;
    if given.is_some_and(is_dot_segment) {
        return Err(Error::invalid("`filename` must not be `.` or `..`").with_field("filename"));
    }
    let file = own_file(files, tenant, uid).await?;
    Ok(link_spec(&file, period, given))
}

/// Returns the parameters of a download link for each of `uids`, in the same order, or why the file
/// cannot be downloaded. The links are valid for at least `expires_in` seconds.
#[boxed_future]
pub async fn create_links(
    files: &FileOps,
    tenant: &Tenant,
    uids: &[Uid],
    expires_in: i64,
) -> Result<Vec<Result<DownloadLinkSpec>>> {
    let period = link_period(files, expires_in)?;
    let stored = files.meta.files.stored_among(uids).await?;
    let own = stored.into_iter().filter(|file| file.tenant == *tenant);
    let own: HashMap<Uid, Arc<StoredFile>> = own.map(|file| (file.uid, file)).collect();
    let missing: BTreeSet<Uid> = uids.iter().copied().filter(|uid| !own.contains_key(uid)).collect();
    let records = files.meta.files.records_among(tenant, missing).await?;
    let states: HashMap<Uid, FileState> = records.into_iter().map(|file| (file.uid, file.state)).collect();
    let link = |uid: &Uid| match (own.get(uid), states.get(uid)) {
        (Some(file), _) => Ok(link_spec(file, period, None)),
        (None, Some(FileState::Stored | FileState::Completing)) => Err(state_error(FileState::Receiving)),
        (None, Some(state)) => Err(state_error(*state)),
        (None, None) => Err(unknown_uid_error()),
    };
    Ok(uids.iter().map(link).collect())
}

fn link_period(files: &FileOps, expires_in: i64) -> Result<LinkPeriod> {
    if check_expire(&files.limits, expires_in).is_err() {
        let message = format!("`expires_in` must be 1 to {} seconds", files.limits.max_link_lifetime_secs);
        return Err(Error::invalid(message).with_field("expires_in"));
    }
    let rounding = files.limits.link_rounding_window_secs;
    Ok(LinkPeriod::rounded(OffsetDateTime::now_utc(), expires_in, rounding))
}

fn link_spec(file: &StoredFile, period: LinkPeriod, filename: Option<&str>) -> DownloadLinkSpec {
    let filename = match filename {
        Some(filename) => filename.to_owned(),
        None if is_dot_segment(&file.name) => file.uid.to_string(),
        None => file.name.replace('/', "_"),
    };
    DownloadLinkSpec { filename, period: LinkPeriod { date: file.link_date(period.date), ..period } }
}

/// Whether a URL cannot end in `name`: clients resolve `.` and `..` as relative path segments, even
/// percent-encoded.
fn is_dot_segment(name: &str) -> bool {
    matches!(name, "." | "..")
}
