//! API keys, which authenticate applications. A key is `osk_<id>_<secret>`; only a hash of the
//! secret is stored.

use std::fmt;

/// Prefix of every key, which scanners for leaked secrets recognise.
const PREFIX: &str = "osk_";
/// Length of an id in bytes.
const ID_BYTES: usize = 6;
/// Length of a secret in bytes. A random secret of this length cannot be guessed, so a single round
/// of a fast hash is enough to protect it.
const SECRET_BYTES: usize = 32;

/// An API key with its secret.
pub struct ApiKey {
    id: String,
    secret: [u8; SECRET_BYTES],
}

impl ApiKey {
    /// Generates a random key.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut secret)?;
        Ok(Self { id: hex::encode(id), secret })
    }

    /// Whether `text` has the prefix of API keys.
    pub fn has_key_prefix(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Parses a key; `None` if the text is not a valid key.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret_text) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let mut secret = [0; SECRET_BYTES];
        hex::decode_to_slice(secret_text, &mut secret).ok()?;
        // Only lowercase hex is accepted, so a key has one valid spelling.
        let is_plain = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_key = id.len() == 2 * ID_BYTES && is_plain(id) && is_plain(secret_text);
        is_key.then(|| Self { id: id.to_owned(), secret })
    }

    /// The public id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Hash of the secret. The database stores this hash and not the secret.
    pub fn secret_hash(&self) -> [u8; 32] {
        blake3::hash(&self.secret).into()
    }

    /// Whether `hash` is the hash of this key's secret. Compares in constant time.
    pub fn matches_hash(&self, hash: &[u8; 32]) -> bool {
        // `blake3::Hash` compares in constant time.
        blake3::hash(&self.secret) == blake3::Hash::from_bytes(*hash)
    }

    /// The whole key in plain text, to be shown once.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, hex::encode(self.secret))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_is_read_as_it_was_shown_and_kept_by_its_hash() {
        let key = ApiKey::generate().unwrap();
        let shown = key.reveal();
        assert_eq!(shown.len(), 4 + 12 + 1 + 64);
        let read = ApiKey::parse(&shown).unwrap();
        assert_eq!(read.id(), key.id());
        assert!(read.matches_hash(&key.secret_hash()));
        assert!(!ApiKey::generate().unwrap().matches_hash(&key.secret_hash()) && !key.matches_hash(&[0; 32]));
        assert!(!format!("{key:?}").contains(&shown[20..]));
        let (id, secret) = shown["osk_".len()..].split_once('_').unwrap();
        assert!(ApiKey::parse(&format!("osk_{id}_{}F", &secret[1..])).is_none());
    }

    #[test]
    fn every_bit_of_a_secret_counts() {
        let key = ApiKey { id: "00112233aabb".to_owned(), secret: [7; SECRET_BYTES] };
        for bit in 0..SECRET_BYTES * 8 {
            let mut other = [7; SECRET_BYTES];
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!ApiKey { id: key.id.clone(), secret: other }.matches_hash(&key.secret_hash()), "{bit}");
        }
    }

    proptest! {
        #[test]
        fn what_is_no_key_is_not_read_as_one(text in "(osk_)?.*") {
            if let Some(key) = ApiKey::parse(&text) {
                prop_assert_eq!(key.reveal(), text);
            }
        }
    }
}
