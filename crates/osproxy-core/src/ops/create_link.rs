//! Create a download link.

use osproxy_types::uid::Uid;
use time::OffsetDateTime;

use super::{FileOps, Tenant, check_expire, download_file::own_file, file_name};
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
    if check_expire(&files.limits, expires_in).is_err() {
        let message = format!("`expires_in` must be 1 to {} seconds", files.limits.max_link_lifetime_secs);
        return Err(Error::invalid(message).with_field("expires_in"));
    }
    let given = filename.map(file_name).transpose().map_err(|error| error.with_field("filename"))?;
    if given.is_some_and(is_dot_segment) {
        return Err(Error::invalid("`filename` must not be `.` or `..`").with_field("filename"));
    }
    let file = own_file(files, tenant, uid).await?;
    let filename = match given {
        Some(filename) => filename.to_owned(),
        None if is_dot_segment(&file.name) => uid.to_string(),
        None => file.name.replace('/', "_"),
    };
    let period =
        LinkPeriod::rounded(OffsetDateTime::now_utc(), expires_in, files.limits.link_rounding_window_secs);
    Ok(DownloadLinkSpec { filename, period: LinkPeriod { date: file.link_date(period.date), ..period } })
}

/// Whether a URL cannot end in `name`: clients resolve `.` and `..` as relative path segments, even
/// percent-encoded.
fn is_dot_segment(name: &str) -> bool {
    matches!(name, "." | "..")
}
