//! Digests in header fields. Every line of an input is a field.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName, HeaderValue};
use osproxy_http::parsers::digests;

/// The parsed digests are exactly those in the fields, and a malformed field is rejected.
pub(crate) fn check(input: &[u8]) {
    let (mut headers, mut fields) = (HeaderMap::new(), Vec::new());
    for line in input.split(|byte| *byte == b'\n').take(16) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = line[..colon].to_ascii_lowercase();
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(&name), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()))
        else {
            continue;
        };
        fields.push((name.as_str().to_owned(), value.as_bytes().to_vec()));
        headers.append(name, value);
    }
    let read = digests(&headers).ok().map(|claims| {
        assert_eq!(claims.blake3, None, "no field has this digest");
        (claims.md5.map(Vec::from), claims.sha256.map(Vec::from))
    });
    assert_eq!(read, reference(&fields), "{headers:?}");
}

type Digest = Option<Vec<u8>>;

/// A reference parser on bytes: `None` for malformed fields.
fn reference(fields: &[(String, Vec<u8>)]) -> Option<(Digest, Digest)> {
    let (mut md5, mut sha256) = (BTreeSet::new(), BTreeSet::new());
    for (name, value) in fields {
        match name.as_str() {
            "content-md5" => {
                md5.insert(decode(value, 16)?);
            }
            "content-digest" | "repr-digest" => {
                // `HeaderValue::to_str` fails for such bytes.
                if value.iter().any(|byte| !matches!(byte, b'\t' | b' '..=b'~')) {
                    return None;
                }
                for member in value.split(|byte| *byte == b',') {
                    let member = member.trim_ascii();
                    let equals = member.iter().position(|byte| *byte == b'=')?;
                    let (algorithm, digest) = (&member[..equals], &member[equals + 1..]);
                    let (set, size) = match algorithm {
                        b"md5" => (&mut md5, 16),
                        b"sha-256" => (&mut sha256, 32),
                        _ => continue,
                    };
                    match digest {
                        [b':', digest @ .., b':'] => set.insert(decode(digest, size)?),
                        _ => return None,
                    };
                }
            }
            _ => {}
        }
    }
    if md5.len() > 1 || sha256.len() > 1 {
        return None;
    }
    Some((md5.pop_first(), sha256.pop_first()))
}

/// Decodes base64 of `size` bytes, with padding and without excess bits.
fn decode(text: &[u8], size: usize) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = text.trim_ascii();
    let digits = text.strip_suffix(b"=").unwrap_or(text);
    let digits = digits.strip_suffix(b"=").unwrap_or(digits);
    if text.len() != size.div_ceil(3) * 4 || digits.len() != (size * 8).div_ceil(6) {
        return None;
    }
    let (mut bytes, mut bits, mut pending) = (Vec::new(), 0_u32, 0);
    for digit in digits {
        let value = ALPHABET.iter().position(|known| known == digit)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        pending += 6;
        if pending >= 8 {
            pending -= 8;
            bytes.push(u8::try_from(bits >> pending).ok()?);
            bits &= (1 << pending) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}
