//! Create download links.

use std::{collections::HashMap, sync::Arc};

use osproxy_api::ErrorCode;
use osproxy_meta::StoredFile;
use osproxy_types::uid::Uid;
use time::OffsetDateTime;

use super::{FileOps, Tenant, check_expire, download_file::own_file, file_name, unknown_uid_error};
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
    let stored: HashMap<Uid, Arc<StoredFile>> = stored.into_iter().map(|file| (file.uid, file)).collect();
    let mut links = Vec::with_capacity(uids.len());
    for uid in uids {
        let file = match stored.get(uid) {
            Some(file) if file.tenant == *tenant => Ok(file.clone()),
            Some(_) => Err(unknown_uid_error()),
            None => own_file(files, tenant, *uid).await,
        };
        links.push(match file {
            Ok(file) => Ok(link_spec(&file, period, None)),
            Err(error) if error.code.is_retryable() || error.code == ErrorCode::Internal => {
                return Err(error);
            }
            Err(error) => Err(error),
        });
    }
    Ok(links)
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
