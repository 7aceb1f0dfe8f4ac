//! Signed links: a URL that grants one action on one uid until it expires.
//!
//! A link carries `uid`, `date`, `expire` and the parameters of its action; the signature covers
//! all of them. Some clients parse links and rebuild them, so the signature covers the decoded
//! values and not the text of the URL.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use hmac::{Hmac, KeyInit, Mac, digest::InvalidLength};
use ipnet::IpNet;
use osproxy_types::content_type;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use time::{
    Duration, OffsetDateTime, PrimitiveDateTime, format_description::BorrowedFormatItem,
    macros::format_description,
};

const DATE_FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");

/// The action that a link grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkAction {
    /// Sending the content of the uid, whole or in parts.
    Upload,
    /// Reading the content of the uid.
    Download,
    /// Creating uploads. The uid is that of an upload grant.
    CreateUploads,
}

/// The signed values of a link, except the constraints of the link. The values are texts, exactly
/// as clients send them back.
#[derive(Clone, Copy, Debug)]
pub struct LinkClaims<'a> {
    /// The granted action.
    pub action: LinkAction,
    /// The uid that the action is granted on.
    pub uid: &'a str,
    /// Start of the validity period, such as `2006-01-02T15:04:05Z` (UTC). May differ from the time
    /// at which the link was issued.
    pub date: &'a str,
    /// Lifetime in seconds, counted from `date`.
    pub expire: &'a str,
    /// The other signed parameters of the link, in a fixed order.
    pub action_params: &'a [&'a str],
}

/// Validity period of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkPeriod {
    /// Start: the link's date.
    pub date: OffsetDateTime,
    /// Length in seconds.
    pub lifetime_secs: i64,
}

impl LinkPeriod {
    /// Returns the period of a link that is issued at `now` and must be valid for at least `expire`
    /// seconds. The period starts with the current window of `round` seconds and is `round` seconds
    /// longer than `expire`, so all links issued in one window with the same `expire` have the same
    /// period. If `round` is 0, the period starts at `now`.
    pub fn rounded(now: OffsetDateTime, expire: i64, round: i64) -> Self {
        let into_window = now.unix_timestamp().checked_rem_euclid(round).unwrap_or(0);
        Self { date: now - Duration::seconds(into_window), lifetime_secs: expire.saturating_add(round) }
    }

    /// End of the period, in seconds since the Unix epoch. Ignores fractions of a second in `date`,
    /// because a link states its date in whole seconds.
    pub fn expires_at_secs(self) -> i64 {
        self.date.unix_timestamp().saturating_add(self.lifetime_secs)
    }
}

/// Constraints of a link. They are part of the `signature` parameter, after its second dot: some
/// clients send back only the parameters that they know, but every client knows `signature`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConstraints {
    /// Largest content that may be sent, in bytes.
    #[serde(default, rename = "s", skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    /// MIME types, separated by commas, one of which the content must have: `image/png` or `image/*`.
    #[serde(default, rename = "t", skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Networks from which the link may be used. If empty, all networks are allowed.
    #[serde(default, rename = "a", skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
    /// Maximum number of downloads with this link.
    #[serde(default, rename = "u", skip_serializing_if = "Option::is_none")]
    pub uses: Option<CountedLimit>,
    /// Whether the holder of an upload link may see the metadata of the file. Set if the holder has
    /// sent it.
    #[serde(default, rename = "m", skip_serializing_if = "std::ops::Not::not")]
    pub shows_metadata: bool,
    /// Maximum concurrent transfers with all links of one API key.
    #[serde(default, rename = "k", skip_serializing_if = "Option::is_none")]
    pub transfers: Option<CountedLimit>,
    /// The upload grant under which the upload was created. If it is revoked, so is the link.
    #[serde(default, rename = "g", skip_serializing_if = "Option::is_none")]
    pub grant: Option<i64>,
    /// Whether the link is for a processing step, which reads the content before the file is stored.
    #[serde(default, rename = "p", skip_serializing_if = "std::ops::Not::not")]
    pub for_processing: bool,
}

/// The maximum of a counter, and the id of the counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedLimit {
    /// Links with the same id share one counter.
    pub id: String,
    /// The maximum.
    pub max: u32,
}

impl LinkConstraints {
    /// Whether there are no constraints.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a client with this address may use the link.
    pub fn allows_ip(&self, client: IpAddr) -> bool {
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(&client))
    }

    /// Whether content of this MIME type may be sent.
    pub fn accepts_content_type(&self, content_type: &str) -> bool {
        self.content_type.as_deref().is_none_or(|wanted| content_type::matches_pattern(wanted, content_type))
    }

    /// Encodes the constraints for the signature; `None` if there are none.
    fn encode(&self) -> Option<String> {
        let text = || serde_json::to_vec(self).unwrap_or_default();
        (!self.is_empty()).then(|| BASE64_URL_SAFE_NO_PAD.encode(text()))
    }

    fn decode(text: &str) -> Option<Self> {
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()
    }
}

/// Why a link is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The signature is malformed, or was made with an unknown key or for other values.
    #[error("the signature does not match this link")]
    Signature,
    /// The signature is valid, but the link has expired.
    #[error("the link has expired")]
    Expired,
}

/// A secret that signs links.
#[derive(Clone)]
pub struct LinkKey {
    id: String,
    mac: Hmac<Sha256>,
}

impl LinkKey {
    /// Creates a key. The id must be safe in URLs and have no dots; the secret must be impossible
    /// to guess. `InvalidLength` does not occur, because HMAC takes secrets of any length.
    pub fn new(id: &str, secret: &[u8]) -> Result<Self, InvalidLength> {
        Ok(Self { id: id.to_owned(), mac: Hmac::new_from_slice(secret)? })
    }

    fn mac(&self, claims: &LinkClaims<'_>, terms: Option<&str>) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        let action = match claims.action {
            LinkAction::Upload => "upload",
            LinkAction::Download => "download",
            LinkAction::CreateUploads => "create uploads",
        };
        let fixed = [action, claims.uid, claims.date, claims.expire];
        // Each field is preceded by its length, so different claims never give the same bytes.
        for field in fixed.iter().chain(claims.action_params) {
            mac.update(&(field.len() as u64).to_be_bytes());
            mac.update(field.as_bytes());
        }
        if let Some(terms) = terms {
            // Marks the start of the constraints: no field has this length.
            mac.update(&u64::MAX.to_be_bytes());
            mac.update(terms.as_bytes());
        }
        mac
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The keys in use: the first signs links, all of them verify links. To rotate keys, insert a new
/// key in front. Remove the old key when all links that it signed have expired.
#[derive(Debug)]
pub struct LinkKeys {
    keys: RwLock<Arc<[LinkKey]>>,
}

impl LinkKeys {
    /// Creates keys that sign with `signing` and also accept signatures of `older`.
    pub fn new(signing: LinkKey, older: Vec<LinkKey>) -> Self {
        let keys = std::iter::once(signing).chain(older).collect();
        Self { keys: RwLock::new(keys) }
    }

    /// Replaces all keys.
    pub fn replace(&self, new_keys: &Self) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = new_keys.load();
    }

    /// Whether the key that `signature` names is one of these keys. Does not verify the signature.
    pub fn contains_key_of(&self, signature: &str) -> bool {
        let id = signature.split('.').next();
        self.load().iter().any(|key| Some(key.id.as_str()) == id)
    }

    /// Whether `others` has the same key ids in the same order.
    pub fn has_same_ids(&self, others: &Self) -> bool {
        self.load().iter().map(|key| &key.id).eq(others.load().iter().map(|key| &key.id))
    }

    fn load(&self) -> Arc<[LinkKey]> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Derives a secret from each key, in the order of the keys, for the purpose `label`. A derived
    /// secret reveals nothing about its key.
    pub fn derive_secrets(&self, label: &str) -> Vec<Vec<u8>> {
        // The data that is hashed here never equals the signed data of a link, because the signed
        // data of a link begins with the length of the action.
        let derive = |key: &LinkKey| {
            key.mac.clone().chain_update(b"derive").chain_update(label).finalize().into_bytes().to_vec()
        };
        self.load().iter().map(derive).collect()
    }

    /// Returns the signature of a link: `<key id>.<mac in hexadecimal>`, followed by
    /// `.<constraints>` if there are any.
    pub fn sign(&self, claims: &LinkClaims<'_>, terms: &LinkConstraints) -> String {
        let (keys, terms) = (self.load(), terms.encode());
        let Some(key) = keys.first() else {
            return String::new();
        };
        let mac = hex::encode(key.mac(claims, terms.as_deref()).finalize().into_bytes());
        match terms {
            Some(terms) => format!("{}.{mac}.{terms}", key.id),
            None => format!("{}.{mac}", key.id),
        }
    }

    /// Like [`check`](Self::check), but returns only the constraints in the signature.
    pub fn verify(
        &self,
        claims: &LinkClaims<'_>,
        signature: &str,
        now: OffsetDateTime,
    ) -> Result<LinkConstraints, LinkError> {
        self.check(claims, signature, now).map(|link| link.constraints)
    }

    /// Checks that one of these keys signed exactly these claims, and that the link has not expired
    /// at `now`.
    pub fn check(
        &self,
        claims: &LinkClaims<'_>,
        signature: &str,
        now: OffsetDateTime,
    ) -> Result<ValidLink, LinkError> {
        let (id, rest) = signature.split_once('.').ok_or(LinkError::Signature)?;
        let (mac, terms) = match rest.split_once('.') {
            Some((mac, terms)) => (mac, Some(terms)),
            None => (rest, None),
        };
        let keys = self.load();
        let key = keys.iter().find(|key| key.id == id).ok_or(LinkError::Signature)?;
        let mut given = [0; 32];
        hex::decode_to_slice(mac, &mut given).map_err(|_| LinkError::Signature)?;
        // Only lowercase hex is accepted, so a signature has one valid spelling.
        if mac.bytes().any(|digit| digit.is_ascii_uppercase()) {
            return Err(LinkError::Signature);
        }
        key.mac(claims, terms).verify(&given.into()).map_err(|_| LinkError::Signature)?;
        // osproxy wrote all signed values, so they can be parsed.
        let date = parse_date(claims.date).ok_or(LinkError::Signature)?;
        let end = expires_at(date, claims.expire).ok_or(LinkError::Signature)?;
        let terms = terms.map_or_else(|| Some(LinkConstraints::default()), LinkConstraints::decode);
        let constraints = terms.ok_or(LinkError::Signature)?;
        if now >= end {
            return Err(LinkError::Expired);
        }
        Ok(ValidLink { constraints, issued_at: date.unix_timestamp(), expires_at: end.unix_timestamp() })
    }
}

/// A link with a valid signature that has not expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidLink {
    /// Constraints in the signature.
    pub constraints: LinkConstraints,
    /// The date of the link, in seconds since the Unix epoch. For revocation, the link counts as
    /// issued at this time.
    pub issued_at: i64,
    /// Expiry of the link, in seconds since the Unix epoch.
    pub expires_at: i64,
}

/// Formats the date of a link, truncated to whole seconds.
pub fn format_date(moment: OffsetDateTime) -> String {
    // Formatting a fixed pattern into a string cannot fail.
    moment.to_offset(time::UtcOffset::UTC).format(DATE_FORMAT).unwrap_or_default()
}

/// Parses the date of a link; `None` if `text` is not in the format of [`format_date`].
pub fn parse_date(text: &str) -> Option<OffsetDateTime> {
    // The parser also accepts texts that `format_date` never writes: a plus sign before the year,
    // and leap seconds.
    let is_digit =
        |(place, byte): (usize, u8)| matches!(place, 4 | 7 | 10 | 13 | 16 | 19) || byte.is_ascii_digit();
    let is_canonical = text.bytes().enumerate().all(is_digit) && !text.ends_with(":60Z");
    let date = PrimitiveDateTime::parse(text, DATE_FORMAT).ok()?;
    is_canonical.then(|| date.assume_utc())
}

/// When a link expires; `None` if `expire` is not a number of seconds, or is too large.
pub fn expires_at(date: OffsetDateTime, expire: &str) -> Option<OffsetDateTime> {
    date.checked_add(Duration::seconds(expire.parse().ok()?))
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

    /// The result for a valid link without constraints.
    const TAKEN: Result<LinkConstraints, LinkError> = Ok(LinkConstraints {
        max_size: None,
        content_type: None,
        networks: Vec::new(),
        uses: None,
        shows_metadata: false,
        transfers: None,
        grant: None,
        for_processing: false,
    });

    #[test]
    fn terms_are_signed_and_cannot_be_left_out() {
        let (keys, date) = (keys(&[1; 32]), format_date(NOW));
        let claims = claims(&date, &["name"]);
        let terms = LinkConstraints {
            max_size: Some(1000),
            content_type: Some("image/*".to_owned()),
            shows_metadata: true,
            networks: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            uses: Some(CountedLimit { id: "x".to_owned(), max: 3 }),
            transfers: Some(CountedLimit { id: "00112233aabb".to_owned(), max: 2 }),
            for_processing: true,
            grant: Some(7),
        };
        let signature = keys.sign(&claims, &terms);
        assert_eq!(keys.verify(&claims, &signature, NOW), Ok(terms.clone()));
        let (bare, encoded) = signature.rsplit_once('.').unwrap();
        let wider = LinkConstraints { max_size: Some(1001), ..terms.clone() }.encode().unwrap();
        for forged in
            [bare.to_owned(), format!("{bare}."), format!("{bare}.{wider}"), format!("{signature}A")]
        {
            assert_eq!(keys.verify(&claims, &forged, NOW), Err(LinkError::Signature), "{forged}");
        }
        // Encoded constraints are not accepted as a parameter of the action either.
        let extra = ["name", encoded];
        let other = LinkClaims { action_params: &extra, ..claims };
        assert_eq!(keys.verify(&other, bare, NOW), Err(LinkError::Signature));
        for (address, allowed) in
            [("10.1.2.3", true), ("11.0.0.1", false), ("2001:db8::1", true), ("::1", false)]
        {
            assert_eq!(terms.allows_ip(address.parse().unwrap()), allowed, "{address}");
        }
        for (kind, taken) in [("image/png", true), ("IMAGE/x", true), ("imagex/y", false), ("", false)] {
            assert_eq!(terms.accepts_content_type(kind), taken, "{kind}");
        }
        assert!(
            LinkConstraints { content_type: Some("text/plain".to_owned()), ..terms }
                .accepts_content_type("text/plain; charset=utf-8")
        );
    }

    fn claims<'a>(date: &'a str, extra: &'a [&'a str]) -> LinkClaims<'a> {
        LinkClaims { action: LinkAction::Download, uid: "1", date, expire: "60", action_params: extra }
    }

    #[test]
    fn a_link_holds_until_its_second_and_not_longer() {
        let (keys, date) = (keys(&[1; 32]), format_date(NOW));
        assert_eq!(date, "2026-11-22T12:00:00Z");
        let claims = claims(&date, &[]);
        let signature = keys.sign(&claims, &LinkConstraints::default());
        for (offset, verdict) in [(-5, TAKEN), (0, TAKEN), (59, TAKEN), (60, Err(LinkError::Expired))] {
            assert_eq!(keys.verify(&claims, &signature, NOW + Duration::seconds(offset)), verdict);
        }
    }

    #[test]
    fn links_of_one_window_have_the_same_period_and_hold_long_enough() {
        assert_eq!(LinkPeriod::rounded(NOW, 60, 0), LinkPeriod { date: NOW, lifetime_secs: 60 });
        let moment = |second: i64| NOW + Duration::seconds(second);
        for second in [0, 1, 299] {
            let period = LinkPeriod::rounded(moment(second), 60, 300);
            assert_eq!((format_date(period.date), period.lifetime_secs), (format_date(NOW), 360));
            assert!(period.expires_at_secs() >= moment(second).unix_timestamp() + 60);
        }
        assert_eq!(format_date(LinkPeriod::rounded(moment(300), 60, 300).date), format_date(moment(300)));
    }

    #[test]
    fn a_moment_has_one_spelling() {
        assert_eq!(parse_date(&format_date(NOW)), Some(NOW));
        for text in [
            "+2026-11-22T12:00:00Z",
            "2016-12-31T23:59:60Z",
            "2026-11-22",
            "2026-11-22T12:00:00z",
            "2026-11-22 12:00:00Z",
            " 2026-11-22T12:00:00Z",
            "2026-11-22T12:00:00.0Z",
            "2026-+1-22T12:00:00Z",
        ] {
            assert_eq!(parse_date(text), None, "{text}");
        }
        let (keys, date) = (keys(&[1; 32]), format_date(NOW));
        let claims = claims(&date, &[]);
        let link = keys.check(&claims, &keys.sign(&claims, &LinkConstraints::default()), NOW).unwrap();
        assert_eq!((link.issued_at, link.expires_at), (NOW.unix_timestamp(), NOW.unix_timestamp() + 60));
    }

    #[test]
    fn a_signature_is_worth_nothing_for_anything_else() {
        let (keys, date) = (keys(&[1; 32]), format_date(NOW));
        let signed = claims(&date, &["a", "bc"]);
        let signature = keys.sign(&signed, &LinkConstraints::default());
        assert_eq!(keys.verify(&signed, &signature, NOW), TAKEN);
        let others = [
            LinkClaims { action: LinkAction::Upload, ..signed },
            LinkClaims { uid: "2", ..signed },
            LinkClaims { date: "2026-11-22T12:00:01Z", ..signed },
            LinkClaims { expire: "61", ..signed },
            LinkClaims { action_params: &["ab", "c"], ..signed },
            LinkClaims { action_params: &["a", "bc", ""], ..signed },
            LinkClaims { action_params: &["a"], ..signed },
        ];
        for other in others {
            assert_eq!(keys.verify(&other, &signature, NOW), Err(LinkError::Signature), "{other:?}");
        }
        let upper = signature.to_uppercase().replace("K1", "k1");
        let longer = format!("{signature}0");
        let garbled = ["", ".", "k1", "k1.", "k2.00", "k1.zz", &signature[..66], &longer, &upper];
        for signature in garbled {
            assert_eq!(keys.verify(&signed, signature, NOW), Err(LinkError::Signature), "{signature}");
        }
    }

    #[test]
    fn keys_rotate_without_breaking_links_that_are_out() {
        let (old, new) = (LinkKey::new("old", &[1; 32]).unwrap(), LinkKey::new("new", &[2; 32]).unwrap());
        let date = format_date(NOW);
        let claims = claims(&date, &[]);
        let out = LinkKeys::new(old.clone(), Vec::new()).sign(&claims, &LinkConstraints::default());
        let rotated = LinkKeys::new(new.clone(), vec![old]);
        assert_eq!(rotated.verify(&claims, &out, NOW), TAKEN);
        assert!(rotated.sign(&claims, &LinkConstraints::default()).starts_with("new."));
        assert_eq!(LinkKeys::new(new, Vec::new()).verify(&claims, &out, NOW), Err(LinkError::Signature));
    }

    #[test]
    fn signatures_are_those_of_rfc_4231() {
        // Test cases 2 and 6: a key that is shorter than a block, and a key that is longer.
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
            let claims = LinkClaims { action: LinkAction::Upload, uid: &uid, date: &date, expire: &expire, action_params: &extra };
            prop_assert_eq!(keys(&[1; 32]).verify(&claims, &signature, NOW), Err(LinkError::Signature));
        }
    }
}
