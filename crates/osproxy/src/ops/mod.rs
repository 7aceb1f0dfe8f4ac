//! Operations: what the service does, whatever protocol asks for it. One file each, named alike everywhere.

pub mod check_health;
pub mod create_download_link;
pub mod create_upload;
pub mod download_file;
pub mod instant_upload;
pub mod sweep;
pub mod upload_file;

use osproxy_storage::ErrorKind;

use crate::{Error, Result, app::App, meta::Blob};

/// Longest name of a file, in bytes.
const MAX_NAME: usize = 1024;

/// Checks how long a link shall hold, in seconds.
fn check_expire(app: &App, expire: i64) -> Result<()> {
    let max = app.limits.max_expire;
    if (1..=max).contains(&expire) {
        Ok(())
    } else {
        Err(Error::invalid(format!("`expire` must be 1 to {max} seconds")))
    }
}

/// Whether the object of a blob is there in its full length. Content is shared only then: what was damaged behind
/// osproxy's back must not swallow what clients send again.
async fn is_intact(app: &App, blob: &Blob) -> Result<bool> {
    match app.storage.size(&blob.key).await {
        Ok(size) => Ok(size == blob.digests.size),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The name of a file: the last component of its path on the client. A name is data: it may hold anything
/// but a NUL, which databases refuse.
fn name_of(path: &str) -> Result<&str> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Error::invalid(format!("a path must end in a name of 1 to {MAX_NAME} bytes")));
    }
    if name.contains('\0') {
        return Err(Error::invalid("a name must not contain NUL"));
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
            assert_eq!(name_of(path).unwrap(), name);
        }
        for path in ["", "/", "///", "a\0b", &"x".repeat(1025)] {
            assert!(name_of(path).is_err(), "{path:?}");
        }
    }
}
