use std::path::PathBuf;

use super::{
    Secret, secret,
    value::{Findings, section},
};

/// Minimum length of a secret, in bytes.
const MIN_SECRET: usize = 16;
/// Maximum length of a key id, in bytes.
const MAX_ID: usize = 32;
/// Longest allowed lifetime of links, in seconds: a hundred years.
const MAX_LIFETIME: u64 = 100 * 365 * 24 * 60 * 60;
/// Longest allowed rounding window, in seconds: a day.
const MAX_ROUNDING_WINDOW: u64 = 24 * 60 * 60;

section! {
    /// `links`: signed links.
    LinksSection {
        /// Keys that sign links: the first signs, all verify. When empty, a key is created at the
        /// first start and stored in the database.
        keys: Vec<LinkKeySection> = Vec::new(),
        /// Longest lifetime of a link, in seconds.
        max_lifetime | max_expire: u64 as seconds = 365 * 24 * 60 * 60,
        /// Rounding window of download links, in seconds: links for the same file that are
        /// requested within one window are identical, so that browsers and CDNs can cache the
        /// content. Each link is valid for up to one window longer than requested. 0 turns rounding
        /// off. Links with `max_uses` always differ.
        rounding_window | round_secs: u64 as seconds = 0,
        /// Whether shared caches, such as a CDN, may keep content until the link to it expires. A
        /// shared cache continues to serve the content after the link is revoked or the file is
        /// deleted. If a link is restricted to networks or to a number of uses, shared caches never
        /// keep the content.
        public_cache: bool = false,
    }
    ignored []
}

section! {
    /// An entry of `links.keys`.
    LinkKeySection {
        /// Identifies the key; part of every signature, so that keys can be rotated. Letters,
        /// digits, `-` and `_`.
        id: String = String::new(),
        /// Secret of the key, at least 16 random bytes.
        secret: Option<Secret> = None,
        /// File with the secret, instead of `secret`. Leading and trailing white space is ignored.
        secret_file: Option<PathBuf> = None,
    }
    ignored []
}

impl LinkKeySection {
    /// Returns the secret. Fails with a message if the key is invalid. Blocks while it reads the
    /// file.
    pub fn secret(&self) -> Result<Vec<u8>, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(1..=MAX_ID).contains(&self.id.len()) || !self.id.bytes().all(plain) {
            return Err(format!("the id must have 1 to {MAX_ID} letters, digits, '-' or '_'"));
        }
        let secret = secret::resolve("secret", self.secret.as_ref(), self.secret_file.as_deref())?;
        let Some(secret) = secret else {
            return Err("set `secret` or `secret_file`".to_owned());
        };
        let secret = secret.reveal();
        if secret.len() < MIN_SECRET {
            return Err(format!("the secret must have at least {MIN_SECRET} bytes"));
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
                findings.problem(&path, format_args!("the id {:?} is used twice", key.id));
            }
        }
        if !(1..=MAX_LIFETIME).contains(&self.max_lifetime) {
            findings.problem("links.max_lifetime", format_args!("must be 1 to {MAX_LIFETIME} seconds"));
        }
        if self.rounding_window > MAX_ROUNDING_WINDOW {
            findings
                .problem("links.rounding_window", format_args!("must be 0 to {MAX_ROUNDING_WINDOW} seconds"));
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
