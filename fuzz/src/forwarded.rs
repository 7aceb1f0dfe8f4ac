//! `Forwarded` header fields.

use osproxy_http::parsers::forwarded;

/// If a proxy appends an element to a well-formed field, that element is added to the result. A
/// malformed field stays malformed.
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
