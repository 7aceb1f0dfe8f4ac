//! Secrets of endpoints, and signatures by the Standard Webhooks specification.

use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Prefix of every secret, which scanners for leaked secrets recognise.
const PREFIX: &str = "whsec_";
/// Length of a generated secret, in bytes.
const GENERATED_BYTES: usize = 32;
/// Shortest allowed secret, in bytes.
const MIN_SECRET_BYTES: usize = 24;
/// Longest allowed secret, in bytes.
const MAX_SECRET_BYTES: usize = 64;

/// The secret of an endpoint: `whsec_` and the Base64 of 24 to 64 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(Vec<u8>);

/// The text is not a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret must be `whsec_` followed by the Base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes")]
pub struct InvalidSecret;

impl WebhookSecret {
    /// Generates a random secret.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = vec![0; GENERATED_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Parses a secret in text form.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidSecret)?;
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| InvalidSecret)?;
        if (MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(InvalidSecret)
        }
    }

    /// Creates a secret from bytes in the database.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the database.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The secret in text form. Call this only where the secret is shown to its owner.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode(&self.0))
    }

    /// Returns the signature of a message, as in the header `webhook-signature`.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        // HMAC accepts keys of every length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return String::new();
        };
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_specification() {
        // The example of the specification.
        let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_ne!(secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_331, body), signature);
    }

    #[test]
    fn secrets_are_long_enough_and_never_shown() {
        let generated = WebhookSecret::generate().unwrap();
        assert_eq!(WebhookSecret::parse(&generated.reveal()), Ok(generated.clone()));
        assert_eq!(format!("{generated:?}"), "***");
        let text = |bytes: usize| format!("whsec_{}", BASE64_STANDARD.encode(vec![7; bytes]));
        for bytes in [24, 32, 64] {
            assert!(WebhookSecret::parse(&text(bytes)).is_ok(), "{bytes}");
        }
        for wrong in
            [text(23), text(65), text(0), String::new(), "whsec_%".into(), text(24).replace("whsec_", "")]
        {
            assert_eq!(WebhookSecret::parse(&wrong), Err(InvalidSecret), "{wrong}");
        }
    }
}
