//! Settings of buckets: who may read them, which pages may use them, and what expires.

mod cache;
pub mod cors;
pub mod lifecycle;

use osproxy_api::v1::{CorsRule, LifecycleRule};
use serde::{Serialize, de::DeserializeOwned};

pub use cache::{BucketCache, KnownBucket};

use crate::{Error, Result};
use lifecycle::LifecycleRules;

/// Maximum size of the CORS rules of a bucket as JSON, in bytes.
const MAX_CORS_BYTES: usize = 64 << 10;
/// Maximum size of the lifecycle rules of a bucket as JSON, in bytes.
const MAX_LIFECYCLE_BYTES: usize = 256 << 10;
/// Maximum length of the name of a rule, in characters.
const MAX_ID: usize = 255;

/// Encodes CORS rules. Fails with `InvalidArgument` if they are not valid.
pub(crate) fn encode_cors(rules: &[CorsRule]) -> Result<Option<String>> {
    cors::check(rules)?;
    encode("cors", rules, MAX_CORS_BYTES)
}

/// Encodes lifecycle rules. Fails with `InvalidArgument` if they are not valid.
pub(crate) fn encode_lifecycle(rules: Vec<LifecycleRule>) -> Result<Option<String>> {
    encode("lifecycle", LifecycleRules::new(rules)?.rules(), MAX_LIFECYCLE_BYTES)
}

fn encode<T: Serialize>(field: &'static str, rules: &[T], max: usize) -> Result<Option<String>> {
    if rules.is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_string(rules).map_err(Error::internal)?;
    if text.len() > max {
        let message = format!("the rules must have at most {max} bytes of JSON");
        return Err(Error::invalid(message).with_field(field));
    }
    Ok(Some(text))
}

/// Parses stored rules. Rules that another version has stored and that cannot be read count as none.
pub fn parse_rules<T: DeserializeOwned>(text: Option<&str>) -> Vec<T> {
    let Some(text) = text else {
        return Vec::new();
    };
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::warn!(%error, "the rules of a bucket cannot be read");
        Vec::new()
    })
}
