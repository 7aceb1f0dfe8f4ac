//! `Forwarded` header fields.

use osproxy_http::parsers::forwarded;

/// What a proxy appends to a field is parsed as it is, or the whole field is malformed; a malformed
/// field stays malformed, whatever is appended.
pub(crate) fn check(input: &[u8]) {
    let ([line], _) = crate::lines(input);
    let added = forwarded(&format!("{line}, for=192.0.2.1;proto=https"));
    let own = Some(std::net::IpAddr::from([192, 0, 2, 1]));
    match (forwarded(line), added) {
        (Some(mut before), Some(added)) => {
            before.push(own);
            assert_eq!(before, added, "{line:?}");
        }
        (before, added) => assert!(before.is_none() && added.is_none(), "{line:?}: {before:?} {added:?}"),
    }
}
