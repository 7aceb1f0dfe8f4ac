//! Pages: how many entries they have, and where they begin.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Serialize, de::DeserializeOwned};
use sha2::Sha256;

use osproxy_api::v1::{DEFAULT_PAGE, MAX_PAGE};

use super::query::Query;
use crate::{Error, Result, app::App};

/// What the secret of cursors is derived for.
const LABEL: &str = "osproxy cursor v1";

/// How many bytes authenticate a cursor.
const MAC: usize = 32;

/// How many entries a page has.
pub(super) fn limit(query: &Query<'_>) -> Result<u64> {
    let Some(text) = query.get("limit") else {
        return Ok(DEFAULT_PAGE);
    };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let limit = text.parse().ok().filter(|limit| digits && (1..=MAX_PAGE).contains(limit));
    let message = || format!("`limit` must be 1 to {MAX_PAGE}");
    limit.ok_or_else(|| Error::invalid(message()).with_field("limit"))
}

/// A cursor that says where a page begins. It is worth something with the same `filters` alone, and nobody but this
/// service can make one.
pub(super) fn cursor<T: Serialize>(app: &App, filters: &[&str], position: &T) -> Result<String> {
    let position = serde_json::to_vec(position).map_err(Error::internal)?;
    let secrets = app.links.derived(LABEL);
    let secret = secrets.first().ok_or_else(|| Error::internal("there is no key"))?;
    let mut cursor = mac(secret, filters, &position)?.finalize().into_bytes().to_vec();
    cursor.extend(position);
    Ok(BASE64_URL_SAFE_NO_PAD.encode(cursor))
}

/// Where the page begins that a query asks for, if it is not the first.
pub(super) fn position<T: DeserializeOwned>(
    app: &App,
    filters: &[&str],
    query: &Query<'_>,
) -> Result<Option<T>> {
    let Some(text) = query.get("cursor") else {
        return Ok(None);
    };
    let refused =
        || Error::invalid("`cursor` is none that was given out for these filters").with_field("cursor");
    let cursor = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| refused())?;
    let (given, position) = cursor.split_at_checked(MAC).ok_or_else(refused)?;
    for secret in app.links.derived(LABEL) {
        if mac(&secret, filters, position)?.verify_slice(given).is_ok() {
            return serde_json::from_slice(position).map(Some).map_err(Error::internal);
        }
    }
    Err(refused())
}

fn mac(secret: &[u8], filters: &[&str], position: &[u8]) -> Result<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(Error::internal)?;
    // Every field with its length before it: no two lists of filters give the same bytes.
    for field in filters.iter().map(|filter| filter.as_bytes()).chain([position]) {
        mac.update(&(field.len() as u64).to_be_bytes());
        mac.update(field);
    }
    Ok(mac)
}
