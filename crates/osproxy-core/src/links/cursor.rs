//! Signed cursors for lists that are read page by page.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Serialize, de::DeserializeOwned};
use sha2::Sha256;

use super::Links;
use crate::{Error, Result};

/// Label for deriving the secret of cursors.
const LABEL: &str = "osproxy cursor v1";

/// Length of the authentication code, in bytes.
const MAC_LEN: usize = 32;

impl Links {
    /// Returns a cursor for the page at `position`. The cursor is valid only with the same
    /// `filters`. It is signed, so clients cannot create cursors.
    pub fn sign_cursor<T: Serialize>(&self, filters: &[&str], position: &T) -> Result<String> {
        let position = serde_json::to_vec(position).map_err(Error::internal)?;
        let secrets = self.keys.derive_secrets(LABEL);
        let secret = secrets.first().ok_or_else(|| Error::internal("there is no link key"))?;
        let mut cursor = mac(secret, filters, &position)?.finalize().into_bytes().to_vec();
        cursor.extend(position);
        Ok(BASE64_URL_SAFE_NO_PAD.encode(cursor))
    }

    /// Returns the position in a cursor. Returns `None` if this service did not issue the cursor
    /// for these filters.
    pub fn verify_cursor<T: DeserializeOwned>(&self, filters: &[&str], cursor: &str) -> Result<Option<T>> {
        let Ok(cursor) = BASE64_URL_SAFE_NO_PAD.decode(cursor) else {
            return Ok(None);
        };
        let Some((given, position)) = cursor.split_at_checked(MAC_LEN) else {
            return Ok(None);
        };
        for secret in self.keys.derive_secrets(LABEL) {
            if mac(&secret, filters, position)?.verify_slice(given).is_ok() {
                return serde_json::from_slice(position).map(Some).map_err(Error::internal);
            }
        }
        Ok(None)
    }
}

fn mac(secret: &[u8], filters: &[&str], position: &[u8]) -> Result<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(Error::internal)?;
    // Each field is preceded by its length, so different filters and positions never give the same
    // bytes.
    for field in filters.iter().map(|filter| filter.as_bytes()).chain([position]) {
        mac.update(&(field.len() as u64).to_be_bytes());
        mac.update(field);
    }
    Ok(mac)
}
