//! Object keys and the categories that they begin with.

use std::fmt;

/// The category of a file, derived from the extension of its name. Every object key begins with a
/// category.
///
/// The extensions in [`of_object`](Self::of_object) are those of the Go program, so that both
/// programs choose the same category for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// Images.
    Image,
    /// Videos.
    Video,
    /// Audio.
    Audio,
    /// Office documents; in API v1 and gRPC also text files.
    Doc,
    /// Archives, such as `zip` and `tar`.
    Archive,
    /// Everything else, and names without an extension.
    Unknown,
}

impl Category {
    /// All categories.
    pub const ALL: [Self; 6] =
        [Self::Image, Self::Video, Self::Audio, Self::Doc, Self::Archive, Self::Unknown];

    /// The category of a file with this name, as reported by API v1 and gRPC.
    pub fn of_name(name: &str) -> Self {
        match extension(name).as_deref() {
            Some(
                "txt" | "text" | "log" | "md" | "markdown" | "rst" | "rtf" | "html" | "htm" | "csv" | "tsv"
                | "json" | "jsonl" | "xml" | "yaml" | "yml" | "toml" | "ini",
            ) => Self::Doc,
            _ => Self::of_object(name),
        }
    }

    /// The category in the object key of a file with this name. Existing object keys and links of
    /// API v0 contain the category that the Go program chose, so this choice must not change.
    pub fn of_object(name: &str) -> Self {
        match extension(name).as_deref() {
            Some("jpg" | "jpeg" | "png" | "gif" | "bmp") => Self::Image,
            Some("mp4" | "avi" | "wmv" | "mpeg") => Self::Video,
            Some("mp3" | "wav" | "flac") => Self::Audio,
            Some("pdf" | "doc" | "docx" | "ppt" | "pptx" | "xls" | "xlsx") => Self::Doc,
            Some("zip" | "rar" | "tar" | "gz" | "7z") => Self::Archive,
            _ => Self::Unknown,
        }
    }

    /// The name used in keys, links and filters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video",
            Self::Audio => "audio",
            Self::Doc => "doc",
            Self::Archive => "archive",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Maximum length of an extension in a key, in bytes.
const MAX_EXTENSION: usize = 16;

/// Returns the extension of a file name, in lower case, for use in an object key. Returns `None`
/// unless the extension has 1 to 16 ASCII letters and digits; the key then has no extension.
pub fn extension(name: &str) -> Option<String> {
    let (_, extension) = name.rsplit_once('.')?;
    let fits = (1..=MAX_EXTENSION).contains(&extension.len())
        && extension.bytes().all(|byte| byte.is_ascii_alphanumeric());
    fits.then(|| extension.to_ascii_lowercase())
}

/// The key of an object: `<folder>/<object name>`, in characters that are safe in paths and URLs.
/// The folder is a category or one of its shard folders.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

/// Begins the folder in the key of a packed object.
const PACK_PREFIX: &str = "pack-";

/// Where the content of a packed object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackLocation {
    /// Number of the pack.
    pub pack: u32,
    /// Offset of the content in the pack, in bytes.
    pub offset: u64,
    /// Size of the content, in bytes.
    pub length: u64,
}

impl PackLocation {
    /// Bytes that the object occupies in the pack.
    pub fn occupied(&self) -> u64 {
        crate::backends::packed_size(self.length)
    }
}

/// The string is not an object key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid object key")]
pub struct InvalidKey;

impl Key {
    /// Maximum length of a folder or object name, in bytes. Leaves room for the suffix of a
    /// temporary file name.
    const MAX_NAME: usize = 200;

    /// The key of a whole blob: `<category>/<id>.<extension>`.
    pub fn whole(category: Category, id: i64, extension: Option<&str>) -> Self {
        match extension {
            Some(extension) => Self(format!("{category}/{id}.{extension}")),
            None => Self(format!("{category}/{id}")),
        }
    }

    /// The key of a part of an upload: `<category>/<id>_<number>`. If `write_id` is set, the key
    /// ends with `_<write_id>`, so that every write of the part has its own key.
    pub fn part(category: Category, id: i64, number: u32, write_id: Option<i64>) -> Self {
        match write_id {
            Some(write_id) => Self(format!("{category}/{id}_{number}_{write_id}")),
            None => Self(format!("{category}/{id}_{number}")),
        }
    }

    /// Returns this key with the category folder replaced by one of its 256 shard folders:
    /// `<category>-<two hexadecimal digits>`. All objects of a blob are in the same shard folder.
    /// Stores on disks use shard folders so that no folder becomes too large.
    #[must_use]
    pub fn in_shard(&self, blob_id: i64) -> Self {
        // The low bits of an id (worker id and sequence) hardly differ between ids. The
        // multiplication makes the highest byte depend on all bits.
        let shard = blob_id.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        Self(format!("{}-{shard:02x}/{}", self.folder(), self.name()))
    }

    /// The key of an object in a pack: `pack-<number>/<blob id>.<offset>.<length>`.
    pub fn packed(location: PackLocation, blob_id: i64) -> Self {
        let PackLocation { pack, offset, length } = location;
        Self(format!("{PACK_PREFIX}{pack:08x}/{blob_id}.{offset}.{length}"))
    }

    /// Where the content of a packed object is. `None` if the object is not packed.
    pub fn pack_location(&self) -> Option<PackLocation> {
        let pack = u32::from_str_radix(self.folder().strip_prefix(PACK_PREFIX)?, 16).ok()?;
        let mut numbers = self.name().split('.').skip(1).map(|number| number.parse().ok());
        Some(PackLocation { pack, offset: numbers.next()??, length: numbers.next()?? })
    }

    /// The number with which the object name begins: the blob id, if osproxy chose the key.
    pub(crate) fn blob_id(&self) -> Option<i64> {
        self.name().split(['.', '_']).next()?.parse().ok()
    }

    /// Whether this is the key of the first write of a part. Such a key has no write id.
    pub fn is_first_write(&self) -> bool {
        self.name().matches('_').count() == 1
    }

    /// Parses a key from the database. Fails unless the key is `<folder>/<object name>` with two
    /// valid names: 1 to 200 ASCII letters, digits, `.`, `_` and `-`, not beginning with `.`.
    pub fn parse(key: &str) -> Result<Self, InvalidKey> {
        let (folder, name) = key.split_once('/').ok_or(InvalidKey)?;
        let is_valid = |segment: &str| {
            !segment.is_empty()
                && !segment.starts_with('.')
                && segment.len() <= Self::MAX_NAME
                && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        if is_valid(folder) && is_valid(name) { Ok(Self(key.to_owned())) } else { Err(InvalidKey) }
    }

    /// The key as a string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segment before the slash: a category or one of its shard folders.
    pub fn folder(&self) -> &str {
        self.0.split_once('/').map_or("", |(folder, _)| folder)
    }

    /// The segment after the slash.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_extension_gives_the_category_in_any_case() {
        assert_eq!(Category::of_name("a.JPG"), Category::Image);
        assert_eq!(Category::of_name("a.tar.gz"), Category::Archive);
        assert_eq!(Category::of_name("a.flac"), Category::Audio);
        assert_eq!(Category::of_name("a.mpeg"), Category::Video);
        assert_eq!(Category::of_name("a.docx"), Category::Doc);
        assert_eq!(Category::of_name("jpg"), Category::Unknown);
        assert_eq!(Category::of_name("a."), Category::Unknown);
    }

    #[test]
    fn text_files_are_documents_but_their_objects_are_unknown() {
        for name in ["a.txt", "a.MD", "a.b.csv", "a.json"] {
            assert_eq!(
                (Category::of_name(name), Category::of_object(name)),
                (Category::Doc, Category::Unknown)
            );
        }
        assert_eq!(Category::of_object("a.pdf"), Category::Doc);
    }

    #[test]
    fn unusual_extensions_are_not_part_of_keys() {
        assert_eq!(extension("x.tar.GZ").as_deref(), Some("gz"));
        for name in ["x", "x.", "x.a/b", "x.a b", "x.日本", "x.abcdefghijklmnopq", "x.\0"] {
            assert_eq!(extension(name), None, "{name:?}");
        }
    }

    #[test]
    fn consecutive_blobs_spread_over_all_shards() {
        let shard = |id| Key::whole(Category::Video, id, Some("mp4")).in_shard(id).folder().to_owned();
        // Ids that are 1 ms apart. Their low 22 bits (worker id and sequence) are 0.
        let shards: std::collections::HashSet<_> =
            (0..4096).map(|ms| shard((1_700_000_000 + ms) << 22)).collect();
        assert_eq!(shards.len(), 256);
        let part = Key::part(Category::Video, 7, 1, None).in_shard(7);
        assert_eq!(part.folder(), shard(7));
        assert!(part.is_first_write());
        assert_eq!(Key::parse(part.as_str()), Ok(part));
    }

    #[test]
    fn keys_that_leave_their_folder_are_invalid() {
        for key in ["", "a", "/a", "a/", "a/..", "../a", "a/b/c", "a/.tmp", ".tmp/a", "a/b\0", "a/b c"] {
            assert_eq!(Key::parse(key), Err(InvalidKey), "{key:?}");
        }
        assert!(Key::parse(&format!("a/{}", "b".repeat(201))).is_err());
    }

    proptest! {
        #[test]
        fn a_packed_key_has_its_location(pack: u32, blob_id in 0..i64::MAX, offset: u64, length: u64) {
            let location = PackLocation { pack, offset, length };
            let key = Key::packed(location, blob_id);
            prop_assert_eq!(Key::parse(key.as_str()), Ok(key.clone()));
            prop_assert_eq!((key.pack_location(), key.blob_id()), (Some(location), Some(blob_id)));
        }

        #[test]
        fn every_name_gives_a_key_that_parses(name in ".*", id in 0..i64::MAX) {
            let key = Key::whole(Category::of_object(&name), id, extension(&name).as_deref());
            prop_assert_eq!(Key::parse(key.as_str()), Ok(key));
            let part = Key::part(Category::of_object(&name), id, 10_000, Some(id));
            prop_assert!(!part.is_first_write());
            prop_assert_eq!(Key::parse(part.as_str()), Ok(part));
            prop_assert!(Key::part(Category::of_object(&name), id, 1, None).is_first_write());
        }
    }
}
