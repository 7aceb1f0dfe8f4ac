//! Checks and errors that several operations share: file names, MIME types, sizes, link lifetimes
//! and file states.

use osproxy_api::ErrorCode;
use osproxy_meta::{FileState, ObjectRefusal};
use osproxy_types::content_type;

use crate::{Error, Result, links::LinkConstraints, settings::Limits};

/// Maximum length of a file name, in bytes.
const MAX_NAME_LEN: usize = 1024;

/// Fails with `UnsupportedMediaType` if the link does not accept the MIME type of the content. The
/// type is derived from `sniffed`, the type detected from the content, and from the extension of
/// `name`.
pub(crate) fn check_content_type(
    constraints: &LinkConstraints,
    sniffed: Option<&str>,
    name: &str,
) -> Result<()> {
    let found = content_type::mime_type_of(sniffed, name);
    if constraints.accepts_content_type(&found) {
        return Ok(());
    }
    Err(content_type_error(constraints.content_type.as_deref().unwrap_or_default(), &found))
}

/// The error for content of a MIME type that the link does not accept.
pub(crate) fn content_type_error(wanted: &str, found: &str) -> Error {
    let message = format!("the link accepts content of type {wanted} only; this is {found}");
    Error::new(ErrorCode::UnsupportedMediaType, message)
}

/// The error for content that exceeds the limit of the link or the API key.
pub(crate) fn too_large_error(max: u64) -> Error {
    Error::new(ErrorCode::TooLarge, format!("this file must not be larger than {max} bytes"))
}

/// Checks that `expire`, the lifetime of a link in seconds, is within the limits. Fails with
/// `InvalidArgument`.
pub fn check_expire(limits: &Limits, expire: i64) -> Result<()> {
    let max = limits.max_link_lifetime_secs;
    if (1..=max).contains(&expire) {
        Ok(())
    } else {
        Err(Error::invalid(format!("the lifetime of a link must be 1 to {max} seconds"))
            .with_field("expires_in"))
    }
}

/// The error for a file that cannot become the object of a key.
pub(crate) fn object_refusal_error(refusal: ObjectRefusal) -> Error {
    match refusal {
        ObjectRefusal::NoBucket => unknown_bucket_error(),
        ObjectRefusal::NoObject => unknown_object_error(),
        ObjectRefusal::Superseded => Error::unavailable("the key was written meanwhile; retry"),
        ObjectRefusal::ConditionFailed => Error::new(
            ErrorCode::PreconditionFailed,
            "the object that has this key does not meet the condition of the request",
        ),
    }
}

/// The error for a bucket that the caller does not have.
pub(crate) fn unknown_bucket_error() -> Error {
    Error::new(ErrorCode::BucketNotFound, "there is no bucket with this name")
}

/// The error for a key that no object has.
pub(crate) fn unknown_object_error() -> Error {
    Error::new(ErrorCode::ObjectNotFound, "the bucket has no object with this key")
}

/// The error for a uid that was never issued, or whose row was purged.
pub(crate) fn unknown_uid_error() -> Error {
    Error::new(ErrorCode::FileNotFound, "there is no file with this uid")
}

/// Returns the error for a request that a file in this state does not allow.
pub(crate) fn state_error(state: FileState) -> Error {
    let (code, message) = match state {
        FileState::Pending | FileState::Receiving => {
            (ErrorCode::NotStored, "the upload of this file is not complete")
        }
        FileState::Partial => (
            ErrorCode::NotStored,
            "this is a partial upload; its bytes become content only as a part of a final upload",
        ),
        FileState::Completing => {
            return Error::unavailable("the upload of this file is being completed");
        }
        FileState::Processing => (
            ErrorCode::FileProcessing,
            "this file is complete and is being checked; it cannot be read or changed yet",
        ),
        FileState::Rejected => {
            (ErrorCode::FileRejected, "this file was checked and not accepted; its content was removed")
        }
        FileState::Quarantined => {
            (ErrorCode::FileQuarantined, "this file is in quarantine, because its content may be dangerous")
        }
        FileState::Stored => (ErrorCode::AlreadyStored, "this file is complete and cannot be changed"),
        FileState::Expired => (ErrorCode::FileGone, "the upload of this file has expired"),
        FileState::Corrupt => (
            ErrorCode::FileCorrupt,
            "the content did not match the expected digests or MIME type and was removed",
        ),
        FileState::Deleted => (ErrorCode::FileGone, "this file was deleted"),
    };
    Error::new(code, message)
}

/// Returns the name of a file: the last component of its path on the client. Fails with
/// `InvalidArgument` if the name is empty, too long, or contains NUL, which databases reject. Any
/// other character is allowed.
pub fn file_name(path: &str) -> Result<&str> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        let message = format!("a path must end in a name of 1 to {MAX_NAME_LEN} bytes");
        return Err(Error::invalid(message).with_field("name"));
    }
    if name.contains('\0') {
        return Err(Error::invalid("a name must not contain NUL").with_field("name"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_last_component_and_otherwise_untouched() {
        for (path, name) in [
            ("a.txt", "a.txt"),
            ("/tmp/a b.txt", "a b.txt"),
            ("dir/sub/", "sub"),
            ("../..", ".."),
            ("C:\\x\\y.doc", "C:\\x\\y.doc"),
            ("名前\r\n\"';.png", "名前\r\n\"';.png"),
        ] {
            assert_eq!(file_name(path).unwrap(), name);
        }
        for path in ["", "/", "///", "a\0b", &"x".repeat(1025)] {
            assert!(file_name(path).is_err(), "{path:?}");
        }
    }
}
