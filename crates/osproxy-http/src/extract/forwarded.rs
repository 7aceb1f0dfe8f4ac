//! The `Forwarded` header (RFC 7239).

use std::net::{IpAddr, SocketAddr};

/// Returns one entry for each element of the line, in order: the address in the parameter `for` of
/// the element. The entry is `None` if this parameter is missing or not an address.
///
/// Returns `None` instead of the list if the line is malformed, because the boundaries between the
/// elements are then unknown.
pub fn addresses(line: &str) -> Option<Vec<Option<IpAddr>>> {
    let mut addresses = Vec::new();
    let mut rest = line;
    loop {
        let (node, after) = element(rest)?;
        addresses.push(node.and_then(|node| address(&node)));
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Some(addresses),
            None => return None,
        }
    }
}

/// Parses one element. Returns the value of its parameter `for`, and the rest of the line; `None`
/// if the element is malformed.
fn element(text: &str) -> Option<(Option<String>, &str)> {
    let (mut node, mut rest) = (None, text);
    loop {
        rest = skip_spaces(rest);
        if !rest.is_empty() && !rest.starts_with([',', ';']) {
            let (name, after) = token(rest)?;
            let (value, after) = value(after.strip_prefix('=')?)?;
            // An element must not have `for` twice.
            if name.eq_ignore_ascii_case("for") && node.replace(value).is_some() {
                return None;
            }
            rest = skip_spaces(after);
        }
        match rest.strip_prefix(';') {
            Some(next) => rest = next,
            None => return Some((node, rest)),
        }
    }
}

fn skip_spaces(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Parses a token or a quoted string. Removes the quotes, and the backslashes of escapes.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return quoted.get(at + 1..).map(|rest| (value, rest)),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(c),
        }
    }
    None
}

/// Parses an address with an optional port. IPv6 addresses are in brackets.
fn address(node: &str) -> Option<IpAddr> {
    let bracketed = node.strip_prefix('[').and_then(|node| node.strip_suffix(']'));
    let address = match bracketed {
        Some(bare) => IpAddr::V6(bare.parse().ok()?),
        None => {
            node.parse().map(IpAddr::V4).or_else(|_| node.parse().map(|node: SocketAddr| node.ip())).ok()?
        }
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(line: &str) -> Option<Vec<String>> {
        let shown = |address: Option<IpAddr>| address.map_or_else(|| "-".to_owned(), |it| it.to_string());
        addresses(line).map(|found| found.into_iter().map(shown).collect())
    }

    #[test]
    fn elements_and_their_addresses() {
        for (line, expected) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", &["192.0.2.60"][..]),
            ("For=\"[2001:db8:cafe::17]:4711\"", &["2001:db8:cafe::17"]),
            ("for=\"[2001:db8::1]\" , for=\"192.0.2.43:80\"", &["2001:db8::1", "192.0.2.43"]),
            ("for=192.0.2.43, for=198.51.100.17;by=203.0.113.60", &["192.0.2.43", "198.51.100.17"]),
            ("host=\"a,for=10.1.1.1\";for=8.8.8.8", &["8.8.8.8"]),
            ("host=\"a\\\",for=10.1.1.1\";for=8.8.8.8", &["8.8.8.8"]),
            ("host=\"a;for=10.1.1.1\", for=8.8.8.8", &["-", "8.8.8.8"]),
            ("for=\"\\1.1.1.1\"", &["1.1.1.1"]),
            ("for=\"[::ffff:1.1.1.1]\"", &["1.1.1.1"]),
            ("for=unknown, for=_hidden, proto=https", &["-", "-", "-"]),
            ("for=\"2001:db8::1\"", &["-"]),
            ("for=1.1.1.1,", &["1.1.1.1", "-"]),
            ("", &["-"]),
        ] {
            assert_eq!(
                read(line).as_deref(),
                Some(&expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{line}"
            );
        }
        for malformed in [
            "for=1.1.1.1:80",
            "for=[2001:db8::1]",
            "for=\"1.1.1.1",
            "for=\"1.1.1.1\\",
            "for=\"1.1.1.1\"x",
            "for = 1.1.1.1",
            "for=1.1.1.1;for=2.2.2.2",
            "for=1.1.1.1 for=2.2.2.2",
            "host=\"a, for=1.1.1.1",
            "=1.1.1.1",
            "for",
        ] {
            assert_eq!(read(malformed), None, "{malformed}");
        }
    }

    proptest! {
        #[test]
        fn quoted_strings_are_never_parsed_as_addresses(text in ".*") {
            let quoted: String = text.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert_eq!(read(&format!("host=\"{quoted}\", for=8.8.8.8")), Some(vec!["-".to_owned(), "8.8.8.8".to_owned()]));
        }
    }
}
