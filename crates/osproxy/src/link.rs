//! Signed links: a URL that grants one action on one uid until a moment.
//!
//! A link carries `uid`, `date`, `expire` and what its action needs besides; the signature covers all of them.
//! Clients take links apart and put them together again, so the signature is over the decoded values
//! and not over the text of the URL.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac, digest::InvalidLength};
use sha2::Sha256;
use time::{
    Duration, OffsetDateTime, PrimitiveDateTime, format_description::BorrowedFormatItem,
    macros::format_description,
};

const DATE: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");

/// What a link allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sending the content of the uid, in one piece or in parts.
    Upload,
    /// Reading the content of the uid.
    Download,
}

/// Everything that a link says, as text, since that is what comes back.
#[derive(Clone, Copy, Debug)]
pub struct Claims<'a> {
    /// What the link allows.
    pub action: Action,
    /// What it allows it on.
    pub uid: &'a str,
    /// When it was issued: `2006-01-02T15:04:05Z`, UTC.
    pub date: &'a str,
    /// How many seconds it holds from `date` on.
    pub expire: &'a str,
    /// What else stands in the link, in a fixed order.
    pub extra: &'a [&'a str],
}

/// Why a link is not honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Signed by a key that is not known, or for other claims.
    #[error("the signature does not fit this link")]
    Signature,
    /// Signed, but its time is over.
    #[error("the link has expired")]
    Expired,
}

/// One secret that signs links.
#[derive(Clone)]
pub struct LinkKey {
    id: String,
    mac: Hmac<Sha256>,
}

impl LinkKey {
    /// A key. The caller sees to it that the id survives in a URL and the secret cannot be guessed;
    /// `InvalidLength` is for secrets that the MAC cannot take, of which HMAC knows none.
    pub fn new(id: &str, secret: &[u8]) -> Result<Self, InvalidLength> {
        Ok(Self { id: id.to_owned(), mac: Hmac::new_from_slice(secret)? })
    }

    fn mac(&self, claims: &Claims<'_>) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        let action = match claims.action {
            Action::Upload => "upload",
            Action::Download => "download",
        };
        let fixed = [action, claims.uid, claims.date, claims.expire];
        // Every field with its length before it: no two sets of claims give the same bytes.
        for field in fixed.iter().chain(claims.extra) {
            mac.update(&(field.len() as u64).to_be_bytes());
            mac.update(field.as_bytes());
        }
        mac
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The keys in use: the first signs, all verify. To rotate, put a new one in front and drop the old one
/// when the last link that it signed has expired.
#[derive(Clone, Debug)]
pub struct LinkKeys {
    signing: LinkKey,
    older: Vec<LinkKey>,
}

impl LinkKeys {
    /// Keys that sign with `signing` and also accept `older`.
    pub fn new(signing: LinkKey, older: Vec<LinkKey>) -> Self {
        Self { signing, older }
    }

    /// A secret for something else out of each key, in their order; it tells nothing of the key.
    pub fn derived(&self, label: &str) -> Vec<Vec<u8>> {
        let keys = std::iter::once(&self.signing).chain(&self.older);
        // No claims begin like this: those begin with the length of an action.
        let derive = |key: &LinkKey| {
            key.mac.clone().chain_update(b"derive").chain_update(label).finalize().into_bytes().to_vec()
        };
        keys.map(derive).collect()
    }

    /// The signature of a link: `<key id>.<mac in hexadecimal>`.
    pub fn sign(&self, claims: &Claims<'_>) -> String {
        let mac = self.signing.mac(claims).finalize().into_bytes();
        format!("{}.{}", self.signing.id, hex::encode(mac))
    }

    /// Checks that a link was signed by one of these keys for exactly these claims, and holds at `now`.
    pub fn verify(&self, claims: &Claims<'_>, signature: &str, now: OffsetDateTime) -> Result<(), LinkError> {
        let (id, mac) = signature.split_once('.').ok_or(LinkError::Signature)?;
        let mut keys = std::iter::once(&self.signing).chain(&self.older);
        let key = keys.find(|key| key.id == id).ok_or(LinkError::Signature)?;
        let mut given = [0; 32];
        hex::decode_to_slice(mac, &mut given).map_err(|_| LinkError::Signature)?;
        key.mac(claims).verify(&given.into()).map_err(|_| LinkError::Signature)?;
        // Whatever is signed was written by us and parses.
        let end = expiry(claims.date, claims.expire).ok_or(LinkError::Signature)?;
        if now < end { Ok(()) } else { Err(LinkError::Expired) }
    }
}

/// The text of a moment in a link, cut to whole seconds.
pub fn date(moment: OffsetDateTime) -> String {
    // Formatting a fixed pattern into a string cannot fail.
    moment.to_offset(time::UtcOffset::UTC).format(DATE).unwrap_or_default()
}

/// The moment from which on a link no longer holds; `None` when the texts are not what [`date`] writes.
fn expiry(date: &str, expire: &str) -> Option<OffsetDateTime> {
    let issued = PrimitiveDateTime::parse(date, DATE).ok()?.assume_utc();
    issued.checked_add(Duration::seconds(expire.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:00 UTC);

    fn keys(secret: &[u8]) -> LinkKeys {
        LinkKeys::new(LinkKey::new("k1", secret).unwrap(), Vec::new())
    }

    fn claims<'a>(date: &'a str, extra: &'a [&'a str]) -> Claims<'a> {
        Claims { action: Action::Download, uid: "1", date, expire: "60", extra }
    }

    #[test]
    fn a_link_holds_until_its_second_and_not_longer() {
        let (keys, date) = (keys(&[1; 32]), date(NOW));
        assert_eq!(date, "2026-11-22T12:00:00Z");
        let claims = claims(&date, &[]);
        let signature = keys.sign(&claims);
        for (offset, verdict) in [(-5, Ok(())), (0, Ok(())), (59, Ok(())), (60, Err(LinkError::Expired))] {
            assert_eq!(keys.verify(&claims, &signature, NOW + Duration::seconds(offset)), verdict);
        }
    }

    #[test]
    fn a_signature_is_worth_nothing_for_anything_else() {
        let (keys, date) = (keys(&[1; 32]), date(NOW));
        let signed = claims(&date, &["a", "bc"]);
        let signature = keys.sign(&signed);
        assert_eq!(keys.verify(&signed, &signature, NOW), Ok(()));
        let others = [
            Claims { action: Action::Upload, ..signed },
            Claims { uid: "2", ..signed },
            Claims { date: "2026-11-22T12:00:01Z", ..signed },
            Claims { expire: "61", ..signed },
            Claims { extra: &["ab", "c"], ..signed },
            Claims { extra: &["a", "bc", ""], ..signed },
            Claims { extra: &["a"], ..signed },
        ];
        for other in others {
            assert_eq!(keys.verify(&other, &signature, NOW), Err(LinkError::Signature), "{other:?}");
        }
        let garbled = ["", ".", "k1", "k1.", "k2.00", "k1.zz", &signature[..66], &format!("{signature}0")];
        for signature in garbled {
            assert_eq!(keys.verify(&signed, signature, NOW), Err(LinkError::Signature), "{signature}");
        }
    }

    #[test]
    fn keys_rotate_without_breaking_links_that_are_out() {
        let (old, new) = (LinkKey::new("old", &[1; 32]).unwrap(), LinkKey::new("new", &[2; 32]).unwrap());
        let date = date(NOW);
        let claims = claims(&date, &[]);
        let out = LinkKeys::new(old.clone(), Vec::new()).sign(&claims);
        let rotated = LinkKeys::new(new.clone(), vec![old]);
        assert_eq!(rotated.verify(&claims, &out, NOW), Ok(()));
        assert!(rotated.sign(&claims).starts_with("new."));
        assert_eq!(LinkKeys::new(new, Vec::new()).verify(&claims, &out, NOW), Err(LinkError::Signature));
    }

    #[test]
    fn signatures_are_those_of_rfc_4231() {
        // Test cases 2 and 6: a key shorter than a block, and one that is longer.
        let long = [0xaa; 131];
        for (key, message, mac) in [
            (&b"Jefe"[..], &b"what do ya want for nothing?"[..], "5bdcc146bf60754e6a042426089575c7"),
            (
                &long,
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f",
            ),
        ] {
            let mac_of_key =
                LinkKey::new("k", key).unwrap().mac.chain_update(message).finalize().into_bytes();
            assert!(hex::encode(mac_of_key).starts_with(mac));
        }
        assert_eq!(format!("{:?}", LinkKey::new("k", b"hush").unwrap()), r#"LinkKey { id: "k", .. }"#);
    }

    proptest! {
        #[test]
        fn nothing_that_is_not_signed_verifies_or_panics(
            uid in ".*", date in ".*", expire in ".*", name in ".*", signature in "(k1\\.)?.*",
        ) {
            let extra = [name.as_str()];
            let claims = Claims { action: Action::Upload, uid: &uid, date: &date, expire: &expire, extra: &extra };
            prop_assert_eq!(keys(&[1; 32]).verify(&claims, &signature, NOW), Err(LinkError::Signature));
        }
    }
}
