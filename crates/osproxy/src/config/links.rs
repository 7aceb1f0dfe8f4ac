use std::path::PathBuf;

use super::{
    Secret,
    value::{Findings, section},
};

/// Fewest bytes of a secret.
const MIN_SECRET: usize = 16;
/// Longest id of a key.
const MAX_ID: usize = 32;
/// Longest time that links may be made to hold, in seconds: a hundred years.
const MAX_EXPIRE: u64 = 100 * 365 * 24 * 60 * 60;
/// Longest window in which links are the same, in seconds: a day.
const MAX_ROUND: u64 = 24 * 60 * 60;

section! {
    /// `links`: signed links.
    LinksSection {
        /// Secrets that sign links: the first signs, all verify. When none are given, one is made at the
        /// first start and kept in the database.
        keys: Vec<LinkKeySection> = Vec::new(),
        /// Longest time that a link may hold, in seconds.
        max_expire: u64 = 365 * 24 * 60 * 60,
        /// Download links for the same file that are asked for within so many seconds are the same link, so that caches of
        /// browsers and CDNs hit. Each holds for as long as was asked, and up to so many seconds longer. 0: every link is dated by its second.
        /// Links with `max_uses` always differ.
        round_secs: u64 = 0,
        /// Whether shared caches, such as a CDN, may keep content until its link ends. They go on serving it after the link was
        /// revoked or the file deleted. Never content of links that are bound to networks or a number of uses.
        public_cache: bool = false,
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

impl LinkKeySection {
    /// The secret, or a sentence that says what is wrong with this key. Blocks to read the file, if there is one.
    pub fn secret(&self) -> Result<Vec<u8>, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(1..=MAX_ID).contains(&self.id.len()) || !self.id.bytes().all(plain) {
            return Err(format!("an id has 1 to {MAX_ID} letters, digits, '-' or '_'"));
        }
        let secret = Secret::resolve("secret", self.secret.as_ref(), self.secret_file.as_deref())?;
        let Some(secret) = secret else {
            return Err("give one of `secret` and `secret_file`".to_owned());
        };
        let secret = secret.reveal();
        if secret.len() < MIN_SECRET {
            return Err(format!("a secret has at least {MIN_SECRET} bytes"));
        }
        Ok(secret.as_bytes().to_vec())
    }
}

impl LinksSection {
    pub(super) fn check(&self, findings: &mut Findings) {
        for (index, key) in self.keys.iter().enumerate() {
            let path = format!("links.keys[{index}]");
            if let Err(error) = key.secret() {
                findings.problem(&path, error);
            }
            if self.keys.iter().take(index).any(|earlier| earlier.id == key.id) {
                findings.problem(&path, format_args!("the id {:?} is taken already", key.id));
            }
        }
        if !(1..=MAX_EXPIRE).contains(&self.max_expire) {
            findings.problem("links.max_expire", format_args!("must be 1 to {MAX_EXPIRE} seconds"));
        }
        if self.round_secs > MAX_ROUND {
            findings.problem("links.round_secs", format_args!("must be 0 to {MAX_ROUND} seconds"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, secret: &str) -> LinkKeySection {
        LinkKeySection { id: id.to_owned(), secret: Some(Secret::new(secret)), secret_file: None }
    }

    #[test]
    fn weak_keys_are_refused_and_secrets_never_shown() {
        assert_eq!(key("k-1_a", "hush-hush-hush-hush").secret().unwrap(), b"hush-hush-hush-hush");
        for (id, secret) in
            [("k", "too-short-by-1b"), ("", "hush-hush-hush-hush"), ("a.b", "hush-hush-hush-hush")]
        {
            assert!(key(id, secret).secret().is_err());
        }
        let both = LinkKeySection { secret_file: Some("x".into()), ..key("k", "hush-hush-hush-hush") };
        assert!(both.secret().is_err());
        assert!(!format!("{both:?}").contains("hush"));
    }
}
