//! Object keys. The first line of an input is a key, the second a file name, the third a number.

use std::path::{Component, Path};

use osproxy_storage::{Category, Key, extension};

/// A key that parses keeps its text, and names a file in a folder below the root of a store. Keys
/// for any file name have these properties too.
pub(crate) fn check(input: &[u8]) {
    let ([text, name, number], _) = crate::lines(input);
    if let Ok(key) = Key::parse(text) {
        assert_eq!(key.as_str(), text);
        stays_inside(&key);
    }
    let id = number.parse().unwrap_or(1_i64) & i64::MAX;
    let category = Category::of_name(name);
    let whole = Key::whole(category, id, extension(name).as_deref());
    let first = Key::part(category, id, 1, None);
    let second = Key::part(category, id, 10_000, Some(id));
    assert!(first.is_first_write() && !second.is_first_write());
    for key in [whole, first, second] {
        assert_eq!(Key::parse(key.as_str()).as_ref(), Ok(&key));
        assert_eq!(key.folder(), category.as_str());
        stays_inside(&key);
    }
}

fn stays_inside(key: &Key) {
    let text = key.as_str();
    assert_eq!(format!("{}/{}", key.folder(), key.name()), text);
    let root = Path::new("/some/root");
    let path = root.join(text);
    let below = path.strip_prefix(root).expect("the path is below the root");
    let below: Vec<_> = below.components().collect();
    assert!(matches!(below[..], [Component::Normal(_), Component::Normal(_)]), "{text:?}");
    // Keys contain no characters that are special in URLs, shells or logs.
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte)), "{text:?}");
    // File systems limit a name to 255 bytes; a temporary file also needs space for a suffix.
    assert!(key.folder().len() <= 255 && key.name().len() <= 230, "{text:?}");
}
