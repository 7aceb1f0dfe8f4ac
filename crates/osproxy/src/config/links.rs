use std::{fmt, path::PathBuf};

use super::value::{Findings, section};
use crate::link::LinkKey;

section! {
    /// `links`: signed links.
    LinksSection {
        /// Secrets that sign links: the first signs, all verify. When none are given, one is made at the
        /// first start and kept in the database.
        keys: Vec<LinkKeySection> = Vec::new(),
        /// Longest time that a link may hold, in seconds.
        max_expire: u64 = 365 * 24 * 60 * 60,
    }
    ignored []
}

section! {
    /// One entry of `links.keys`.
    LinkKeySection {
        /// Stands in every signature, so that keys can be rotated: letters, digits, `-` and `_`.
        id: String = String::new(),
        /// At least 16 bytes that nobody can guess.
        secret: Option<Secret> = None,
        /// A file that holds the secret instead; white space around it does not count.
        secret_file: Option<PathBuf> = None,
    }
    ignored []
}

/// Text that must not show up in logs.
#[derive(Clone, Default, PartialEq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl super::value::Value for Secret {
    fn read(node: super::value::Node, path: &str, findings: &mut Findings) -> Option<Self> {
        String::read(node, path, findings).map(Self)
    }
}

impl LinkKeySection {
    /// The key itself, or a sentence that says what is wrong with it. Blocks to read the file, if there is one.
    pub fn key(&self) -> Result<LinkKey, String> {
        let read;
        let secret = match (&self.secret, &self.secret_file) {
            (Some(Secret(secret)), None) => secret,
            (None, Some(path)) => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "settings are read before the reactor has work"
                )]
                let file = std::fs::read_to_string(path);
                read = file.map_err(|error| format!("{}: {error}", path.display()))?;
                read.trim()
            }
            _ => return Err("give one of `secret` and `secret_file`".to_owned()),
        };
        LinkKey::new(&self.id, secret.as_bytes()).map_err(|error| error.to_string())
    }
}

impl LinksSection {
    pub(super) fn check(&self, findings: &mut Findings) {
        for (index, key) in self.keys.iter().enumerate() {
            let path = format!("links.keys[{index}]");
            if let Err(error) = key.key() {
                findings.problem(&path, error);
            }
            if self.keys.iter().take(index).any(|earlier| earlier.id == key.id) {
                findings.problem(&path, format_args!("the id {:?} is taken already", key.id));
            }
        }
        if self.max_expire == 0 || i64::try_from(self.max_expire).is_err() {
            findings.problem("links.max_expire", "must be at least 1 second, and less than forever");
        }
    }
}
