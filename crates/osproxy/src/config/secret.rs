use std::{fmt, path::Path};

use super::value::{Findings, RawValue, SettingValue};

/// Text that must not appear in logs.
#[derive(Clone, Default, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The text itself. Call this only where the secret is used.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns the secret itself or the content of its file without surrounding white space; `None`
    /// if neither is set. Fails with a message if both are set or the file cannot be read. Blocks
    /// while it reads the file.
    pub fn resolve(name: &str, inline: Option<&Self>, file: Option<&Path>) -> Result<Option<Self>, String> {
        match (inline, file) {
            (Some(_), Some(_)) => Err(format!("set only one of `{name}` and `{name}_file`")),
            (written, None) => Ok(written.cloned()),
            (None, Some(path)) => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "settings are read before the reactor has work"
                )]
                let read = std::fs::read_to_string(path);
                let read = read.map_err(|error| format!("{}: {error}", path.display()))?;
                Ok(Some(Self(read.trim().to_owned())))
            }
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl SettingValue for Secret {
    fn read(node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        match node {
            // Files of the Go program have numeric passwords without quotes.
            RawValue::Integer(number) => Some(Self(number.to_string())),
            node => String::read(node, path, findings).map(Self),
        }
    }
}
