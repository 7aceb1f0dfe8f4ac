//! Let whoever has a link read a file.

use time::OffsetDateTime;

use super::{Tenant, check_expire, download_file::own_file, name_of};
use crate::{Error, Result, app::App, uid::Uid};

/// What a link is to say.
#[derive(Debug)]
pub struct Link {
    /// What the file is called where it is saved.
    pub filename: String,
    /// When this was found out; the link is dated so.
    pub date: OffsetDateTime,
    /// From when on it no longer holds, in milliseconds since the Unix epoch.
    pub expires_at: i64,
}

/// What a link to a complete file of a tenant says that holds `expires_in` seconds. The file is called by its own name there if
/// there is no other.
pub async fn create_link(
    app: &App,
    tenant: &Tenant,
    uid: Uid,
    expires_in: i64,
    filename: Option<&str>,
) -> Result<Link> {
    if check_expire(app, expires_in).is_err() {
        let message = format!("`expires_in` must be 1 to {} seconds", app.limits.max_expire);
        return Err(Error::invalid(message).with_field("expires_in"));
    }
    let given = filename.map(name_of).transpose().map_err(|error| error.with_field("filename"))?;
    if given.is_some_and(is_a_step) {
        return Err(Error::invalid("`filename` must not be `.` or `..`").with_field("filename"));
    }
    let file = own_file(app, tenant, uid).await?;
    let filename = match given {
        Some(filename) => filename.to_owned(),
        None if is_a_step(&file.name) => uid.to_string(),
        None => file.name.replace('/', "_"),
    };
    let date = file.link_date(OffsetDateTime::now_utc());
    // A link is dated in whole seconds.
    let expires_at = date.unix_timestamp().saturating_add(expires_in).saturating_mul(1000);
    Ok(Link { filename, date, expires_at })
}

/// Names that no URL can have at its end: whoever reads it takes them for a step to another folder, encoded or not.
fn is_a_step(name: &str) -> bool {
    matches!(name, "." | "..")
}
