//! Secrets in settings.

use std::path::Path;

use osproxy_types::secret::Secret;

use super::value::{Findings, RawValue, SettingValue};

/// Returns the secret `inline`, or the content of `file` without surrounding white space. Returns
/// `None` if neither is set. Fails with a message if both are set or the file cannot be read.
/// Blocks while it reads the file.
pub(super) fn resolve(
    name: &str,
    inline: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Option<Secret>, String> {
    match (inline, file) {
        (Some(_), Some(_)) => Err(format!("set only one of `{name}` and `{name}_file`")),
        (written, None) => Ok(written.cloned()),
        (None, Some(path)) => {
            #[expect(clippy::disallowed_methods, reason = "settings are read before the reactor has work")]
            let read = std::fs::read_to_string(path);
            let read = read.map_err(|error| format!("{}: {error}", path.display()))?;
            Ok(Some(Secret::new(read.trim())))
        }
    }
}

impl SettingValue for Secret {
    fn read(node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        match node {
            // Configuration files of the Go program contain numeric passwords without quotes.
            RawValue::Integer(number) => Some(Self::new(number.to_string())),
            node => String::read(node, path, findings).map(Self::new),
        }
    }
}
