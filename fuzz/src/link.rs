//! Signed links. The lines of an input are: the query of a link; a uid, a date and a validity in
//! seconds; constraints as JSON; a file name; an offset in the signature and a byte to write there.

use std::sync::LazyLock;

use osproxy_core::links::{
    LinkAction, LinkClaims, LinkConstraints, LinkError, LinkKey, LinkKeys, LinkPeriod, expires_at,
    format_date, parse_date,
};
use osproxy_http::parsers::{query_v0, query_v1, sign_v0, sign_v1, verify_v0, verify_v1};
use osproxy_types::uid::Uid;
use time::OffsetDateTime;

/// The last second of the year 9999.
const LAST: i64 = 253_402_300_799;

/// The keys that sign the links in `corpus/`.
static KEYS: LazyLock<LinkKeys> =
    LazyLock::new(|| LinkKeys::new(key("k1", b"hush-hush-hush-1"), vec![key("k0", b"hush-hush-hush-0")]));
/// Only the older key.
static OLDER: LazyLock<LinkKeys> =
    LazyLock::new(|| LinkKeys::new(key("k0", b"hush-hush-hush-0"), Vec::new()));
/// Keys with the same ids, but with other secrets.
static OTHERS: LazyLock<LinkKeys> =
    LazyLock::new(|| LinkKeys::new(key("k1", b"hush-hush-hush-2"), vec![key("k0", b"hush-hush-hush-3")]));

fn key(id: &str, secret: &[u8]) -> LinkKey {
    LinkKey::new(id, secret).expect("HMAC takes secrets of any length")
}

/// A signature verifies only for the link that was signed, for its uid and action, and until its
/// expiry.
pub(crate) fn check(input: &[u8]) {
    let ([query, numbers, terms, name, change], _) = crate::lines(input);
    check_any_link(query);
    let mut numbers = numbers.split(' ').map(|number| number.parse().unwrap_or(60_i64));
    let mut number = || numbers.next().unwrap_or(60);
    let uid = Uid::from_db(number().saturating_abs().max(1));
    let date = OffsetDateTime::from_unix_timestamp(number().rem_euclid(LAST)).expect("the time is in range");
    let made =
        SignedLink { uid, date, expire: number(), terms: serde_json::from_str(terms).unwrap_or_default() };
    made.check(name, change);
}

/// Checks a link that need not be signed.
fn check_any_link(query: &str) {
    let said = query_v0(query);
    let [uid, date_text, expire, signature] = &said;
    if let Ok(read) = uid.parse::<Uid>() {
        assert_eq!(read.to_string(), *uid);
    }
    if let Some(moment) = parse_date(date_text) {
        assert_eq!(format_date(moment), *date_text, "a time has two spellings");
        if let Some(end) = expires_at(moment, expire) {
            assert_eq!(expire.parse().ok(), Some((end - moment).whole_seconds()));
        }
    }
    let now = OffsetDateTime::UNIX_EPOCH;
    let verdict = verify_v0(&KEYS, LinkAction::Upload, query, &[], now);
    if let Ok(terms) = &verdict {
        let claims =
            LinkClaims { action: LinkAction::Upload, uid, date: date_text, expire, action_params: &[] };
        assert!([&KEYS, &OLDER].iter().any(|keys| keys.sign(&claims, terms) == *signature), "{signature:?}");
    }
    for (keys, action, extra) in [
        (&OTHERS, LinkAction::Upload, &[][..]),
        (&KEYS, LinkAction::Download, &[]),
        (&KEYS, LinkAction::Upload, &["filename"]),
    ] {
        let refused = verify_v0(keys, action, query, extra, now);
        assert_eq!(refused, Err(LinkError::Signature), "{action:?} {extra:?}");
    }
    // If a link parses in both versions of the API, the results are the same.
    let rest = query.strip_prefix("uid=").and_then(|rest| rest.split_once('&'));
    if let Some((path, rest)) = rest.filter(|(path, _)| path == uid)
        && let Some(verdict_v1) = verify_v1(&KEYS, path, rest, now)
    {
        assert_eq!(query_v1(path, rest).as_ref(), Some(&said));
        assert_eq!(verdict_v1, verdict);
    }
}

/// A link that this target signs.
struct SignedLink {
    uid: Uid,
    date: OffsetDateTime,
    expire: i64,
    terms: LinkConstraints,
}

impl SignedLink {
    fn check(&self, name: &str, change: &str) {
        let (uid, period) = (self.uid, LinkPeriod { date: self.date, lifetime_secs: self.expire });
        let query = sign_v0(&KEYS, LinkAction::Download, uid, period, &[("filename", name)], &self.terms);
        let said = query_v0(&query);
        let texts = [uid.to_string(), format_date(self.date), self.expire.to_string()];
        assert_eq!(said[..3], texts);
        let [_, date_text, expire, signature] = &said;
        let verify = |query: &str, now| verify_v0(&KEYS, LinkAction::Download, query, &["filename"], now);
        self.check_time(end_of(date_text, expire), |now| verify(&query, now));
        let changed = changed(signature, change);
        if changed != *signature {
            let forged = query.replace(&encoded(signature), &encoded(&changed));
            assert_eq!(query_v0(&forged)[3], changed);
            assert_eq!(verify(&forged, self.date), Err(LinkError::Signature), "{changed:?}");
        }
        let extra = [name];
        let claims = LinkClaims {
            action: LinkAction::Download,
            uid: &said[0],
            date: date_text,
            expire,
            action_params: &extra,
        };
        self.check_constraints(&claims, signature);
        for (from, to) in [("uid=", "uid=1"), ("expire=", "expire=1"), ("filename=", "filename=1")] {
            let forged = query.replacen(from, to, 1);
            assert_eq!(verify(&forged, self.date), Err(LinkError::Signature), "{forged}");
        }
        // In API v1, the uid is in the path.
        let (path, query) = (uid.to_string(), sign_v1(&KEYS, uid, period, &self.terms));
        let said = query_v1(&path, &query).expect("it has all parameters");
        assert_eq!(said[..3], texts);
        let verify = |path: &str, now| verify_v1(&KEYS, path, &query, now).expect("it has all parameters");
        self.check_time(end_of(date_text, expire), |now| verify(&path, now));
        assert_eq!(verify(&format!("1{path}"), self.date), Err(LinkError::Signature));
    }

    /// Constraints cannot be removed, added or replaced.
    fn check_constraints(&self, claims: &LinkClaims<'_>, signature: &str) {
        let bare = |signature: &str| signature.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
        for other in
            [LinkConstraints::default(), LinkConstraints { max_size: Some(u64::MAX), ..self.terms.clone() }]
        {
            let others = KEYS.sign(claims, &other);
            let forged = bare(signature) + others.strip_prefix(&bare(&others)).unwrap_or_default();
            if forged != signature {
                let verdict = KEYS.verify(claims, &forged, self.date);
                assert_eq!(verdict, Err(LinkError::Signature), "{other:?} for {:?}", self.terms);
            }
        }
    }

    /// A link is valid until its expiry `end`, and returns its constraints. Without an expiry, it
    /// never verifies.
    fn check_time(
        &self,
        end: Option<i64>,
        verify: impl Fn(OffsetDateTime) -> Result<LinkConstraints, LinkError>,
    ) {
        let wanted = self.date.unix_timestamp().checked_add(self.expire).filter(|end| *end <= LAST);
        let Some(end) = end else {
            let early = wanted.is_some_and(|end| OffsetDateTime::from_unix_timestamp(end).is_ok());
            assert!(!early, "a link with an expiry was rejected");
            assert_eq!(verify(self.date), Err(LinkError::Signature), "a link without an expiry verified");
            return;
        };
        assert_eq!(wanted, Some(end));
        for (seconds, verdict) in [
            (end, Err(LinkError::Expired)),
            (end - 1, Ok(self.terms.clone())),
            (i64::MIN, Ok(self.terms.clone())),
        ] {
            if let Ok(now) = OffsetDateTime::from_unix_timestamp(seconds) {
                assert_eq!(verify(now), verdict, "at {now}");
            }
        }
    }
}

/// When a link expires, in seconds since the Unix epoch.
fn end_of(date: &str, expire: &str) -> Option<i64> {
    Some(expires_at(parse_date(date)?, expire)?.unix_timestamp())
}

fn encoded(signature: &str) -> String {
    // Hexadecimal digits, base64url and dots are not escaped in a query.
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    signature.bytes().map(encode).collect()
}

/// The signature after one byte is replaced or removed, or text is inserted.
fn changed(signature: &str, change: &str) -> String {
    let (place, with) = change.split_once(' ').unwrap_or((change, ""));
    let place = place.parse().unwrap_or(0_usize) % (signature.len() + 1);
    let (before, behind) = signature.split_at(place);
    match with.strip_prefix('+') {
        Some(more) => format!("{before}{more}{behind}"),
        None => format!("{before}{with}{}", behind.get(1..).unwrap_or_default()),
    }
}
