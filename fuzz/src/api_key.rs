//! API keys. The first line of an input is a key, the second its scopes.

use osproxy_core::auth::ApiKey;
use osproxy_types::scope::{Scope, Scopes};

/// A key that parses keeps its text, hides its secret in debug output, and matches only its own
/// hash. Parsed scopes are exactly those in the text.
pub(crate) fn check(input: &[u8]) {
    let ([text, scopes], _) = crate::lines(input);
    if let Some(key) = ApiKey::parse(text) {
        assert!(ApiKey::has_key_prefix(text));
        assert_eq!(key.reveal(), text);
        assert!(key.matches_hash(&key.secret_hash()));
        let (shown, secret) = (format!("{key:?}"), &text["osk_".len() + key.id().len() + 1..]);
        assert!(shown.contains(key.id()) && !shown.contains(secret), "{shown}");
        let mut other = key.secret_hash();
        other[0] ^= 1;
        assert!(!key.matches_hash(&other));
    }
    if let Ok(read) = scopes.parse::<Scopes>() {
        for scope in Scope::ALL {
            let named = scopes.split(',').any(|name| name.trim() == scope.as_str());
            assert_eq!(read.contains(scope), named, "{scope:?} in {scopes:?}");
        }
        assert_eq!(read.to_string().parse::<Scopes>().ok(), Some(read));
    } else {
        let unknown = |name: &str| Scope::ALL.iter().all(|scope| scope.as_str() != name.trim());
        assert!(scopes.split(',').any(unknown), "{scopes:?}");
    }
}
