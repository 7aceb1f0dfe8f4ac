//! Limits on the file metadata that applications set.

use osproxy_api::v1::{MAX_METADATA_BYTES, MAX_METADATA_KEY, MAX_METADATA_KEYS, MAX_METADATA_VALUE};
use osproxy_meta::FileMetadata;

use crate::{Error, Result};

/// Fails with `InvalidArgument` if the metadata exceeds its limits.
pub fn check_metadata(metadata: &FileMetadata) -> Result<()> {
    let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    let fits = metadata.len() <= MAX_METADATA_KEYS
        && bytes <= MAX_METADATA_BYTES
        && metadata.keys().all(|key| (1..=MAX_METADATA_KEY).contains(&key.len()))
        && metadata.values().all(|value| value.len() <= MAX_METADATA_VALUE);
    if fits { Ok(()) } else { Err(metadata_error()) }
}

/// Checks metadata that is one of two parts, which together must not exceed the limits: each may use
/// half of them. Fails with `InvalidArgument`.
pub(crate) fn check_partial_metadata(metadata: &FileMetadata) -> Result<()> {
    check_metadata(metadata)?;
    let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if metadata.len() <= MAX_METADATA_KEYS / 2 && bytes <= MAX_METADATA_BYTES / 2 {
        return Ok(());
    }
    let message = format!(
        "with an upload grant, `metadata` must have at most {} keys and {} bytes",
        MAX_METADATA_KEYS / 2,
        MAX_METADATA_BYTES / 2
    );
    Err(Error::invalid(message).with_field("metadata"))
}

/// The error for metadata that exceeds its limits.
pub fn metadata_error() -> Error {
    Error::invalid(format!(
        "`metadata` must have at most {MAX_METADATA_KEYS} keys; each key must have 1 to {MAX_METADATA_KEY} bytes, \
         each value at most {MAX_METADATA_VALUE} bytes, and all together at most {MAX_METADATA_BYTES} bytes"
    ))
    .with_field("metadata")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(entries: usize, key: usize, value: usize) -> FileMetadata {
        let key = |number: usize| format!("{number:0key$}");
        (0..entries).map(|number| (key(number), "v".repeat(value))).collect()
    }

    #[test]
    fn bounds_are_where_they_are_said_to_be() {
        for (entries, key, value) in [(0, 1, 0), (64, 128, 128), (1, 128, 4096), (1, 1, 0), (4, 3, 4093)] {
            assert!(check_metadata(&of(entries, key, value)).is_ok(), "{entries} {key} {value}");
        }
        for (entries, key, value) in [(65, 2, 0), (64, 128, 129), (1, 129, 0), (1, 1, 4097), (4, 3, 4094)] {
            assert!(check_metadata(&of(entries, key, value)).is_err(), "{entries} {key} {value}");
        }
        assert!(check_metadata(&FileMetadata::from([(String::new(), String::new())])).is_err());
    }
}
