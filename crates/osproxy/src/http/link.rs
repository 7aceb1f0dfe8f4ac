//! Signed links, as every version of the API takes them.

use osproxy_api::ErrorCode;
use time::OffsetDateTime;

use crate::{
    Error, Result,
    app::App,
    link::{Claims, LinkError},
};

/// Whether a link says what was signed, and holds now.
pub(super) fn verify(app: &App, claims: &Claims<'_>, signature: &str) -> Result<()> {
    let verdict = app.links.verify(claims, signature, OffsetDateTime::now_utc());
    verdict.map_err(|error| {
        let code = match error {
            LinkError::Signature => ErrorCode::InvalidSignature,
            LinkError::Expired => ErrorCode::LinkExpired,
        };
        Error::new(code, error.to_string())
    })
}
