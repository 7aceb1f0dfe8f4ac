use std::{fmt, path::Path};

use super::value::{Findings, Node, Value};

/// Text that must not show up in logs.
#[derive(Clone, Default, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Takes care of a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The secret that is written, or that a file holds; white space around the latter does not count. `None`: neither.
    /// Fails with a sentence when both are given, or the file cannot be read. Blocks to read it.
    pub fn resolve(name: &str, written: Option<&Self>, file: Option<&Path>) -> Result<Option<Self>, String> {
        match (written, file) {
            (Some(_), Some(_)) => Err(format!("give one of `{name}` and `{name}_file`")),
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

impl Value for Secret {
    fn read(node: Node, path: &str, findings: &mut Findings) -> Option<Self> {
        match node {
            // Passwords of digits stand without quotes in files of the Go program.
            Node::Integer(number) => Some(Self(number.to_string())),
            node => String::read(node, path, findings).map(Self),
        }
    }
}
