//! Compares what the content is with what its name and the client say, and accepts or rejects types.

use std::borrow::Cow;

use futures_util::TryStreamExt;
use osproxy_types::content_type::{self, HEAD, matches_pattern, mime_type_of, sniff};

use super::{Findings, OpenContent, Step, StepError, StepFile, Verdict, settings::TypeSettings};

/// The type of content about which nothing is known.
const UNKNOWN: &str = "application/octet-stream";

/// The step `type`.
pub(super) struct ContentType {
    settings: TypeSettings,
}

impl ContentType {
    pub(super) fn new(settings: TypeSettings) -> Self {
        Self { settings }
    }

    /// Judges content that begins with `head`.
    fn judge(&self, file: &StepFile, head: &[u8]) -> Verdict {
        let TypeSettings { allow, deny, reject_mismatch } = &self.settings;
        let sniffed = sniff(head);
        let found = mime_type_of(sniffed, &file.name);
        let claimed = essence(&file.content_type);
        let rejected = |reason: String| Verdict::Reject { reason };
        let matches =
            |patterns: &[String], found: &str| patterns.iter().any(|one| matches_pattern(one, found));
        if let Some(denied) = [found.as_str(), &claimed].into_iter().find(|one| matches(deny, one)) {
            return rejected(format!("files of the type {denied} are not accepted"));
        }
        if !allow.is_empty() && !matches(allow, &found) {
            return rejected(format!("files of the type {found} are not accepted"));
        }
        let is_mismatch = !agree(sniffed, &found, &claimed);
        if is_mismatch && *reject_mismatch {
            let content = sniffed.unwrap_or("of no known type");
            return rejected(format!("the file is called {claimed}, but its content is {content}"));
        }
        let replaces = (is_mismatch && content_type::is_specific(sniffed)) || claimed == UNKNOWN;
        let content_type = Some(found).filter(|found| replaces && *found != claimed);
        Verdict::Accept(Findings { content_type, ..Findings::default() })
    }
}

impl Step for ContentType {
    fn name(&self) -> &'static str {
        "type"
    }

    async fn run(&self, file: &StepFile, content: &dyn OpenContent) -> Result<Verdict, StepError> {
        let mut head = Vec::new();
        let mut stream = content.open(0..file.size.min(HEAD as u64)).await?;
        while let Some(bytes) = stream.try_next().await? {
            head.extend_from_slice(&bytes);
        }
        Ok(self.judge(file, &head))
    }
}

/// A MIME type without its parameters, in lower case.
fn essence(content_type: &str) -> Cow<'_, str> {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence.is_empty() { UNKNOWN.into() } else { essence.to_ascii_lowercase().into() }
}

/// Whether content of the type `found`, with the signature `sniffed`, may be called `claimed`.
fn agree(sniffed: Option<&str>, found: &str, claimed: &str) -> bool {
    if claimed == UNKNOWN || found == claimed {
        // A claim that rests on the name alone is no evidence for a type that has a signature.
        return sniffed.is_some() || !has_signature(claimed);
    }
    match (sniffed, family(claimed)) {
        // Many formats have no signature, but images, sound and films do.
        (None, _) => !has_signature(claimed),
        (Some(container), _) if content_type::is_container(container) => !has_signature(claimed),
        (Some(_), known) => known == family(found),
    }
}

/// Whether content of this type can be recognised.
fn has_signature(content_type: &str) -> bool {
    let has = ["image/", "audio/", "video/"].iter().any(|family| content_type.starts_with(family));
    has && !content_type.ends_with("+xml")
}

/// What types with the same content have in common: the family for text and media, else the type.
fn family(content_type: &str) -> &str {
    match content_type.split_once('/') {
        Some(("audio" | "video", _)) => "media",
        Some((family @ ("image" | "text" | "font"), _)) => family,
        Some((_, subtype)) => subtype.strip_prefix("x-").unwrap_or(subtype),
        None => content_type,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osproxy_types::{tenant::Tenant, uid::Uid};

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    const EXE: &[u8] = b"MZ\x90\0\x03\0\0\0";

    fn file(name: &str, content_type: &str) -> StepFile {
        StepFile {
            uid: Uid::from_db(1),
            tenant: Tenant::from_db("t"),
            name: name.to_owned(),
            size: 0,
            content_type: content_type.to_owned(),
            metadata: std::collections::BTreeMap::new(),
            digests: None,
        }
    }

    fn judge(settings: TypeSettings, name: &str, claimed: &str, head: &[u8]) -> Verdict {
        ContentType::new(settings).judge(&file(name, claimed), head)
    }

    #[test]
    fn lists_are_about_the_content() {
        let images = || TypeSettings { allow: vec!["image/*".to_owned()], ..TypeSettings::default() };
        assert_eq!(judge(images(), "a.png", "image/png", PNG), Verdict::accept());
        assert!(matches!(judge(images(), "a.png", "image/png", EXE), Verdict::Reject { .. }));
        assert!(matches!(judge(images(), "a.txt", "text/plain", b"words"), Verdict::Reject { .. }));
        let no_html = || TypeSettings { deny: vec!["text/html".to_owned()], ..TypeSettings::default() };
        assert!(matches!(
            judge(no_html(), "a.txt", "text/plain", b"<!DOCTYPE html>"),
            Verdict::Reject { .. }
        ));
        assert!(matches!(judge(no_html(), "a.html", "text/html", b"words"), Verdict::Reject { .. }));
        assert_eq!(judge(no_html(), "a.txt", "text/plain", b"words"), Verdict::accept());
    }

    #[test]
    fn claims_are_compared_with_the_content() {
        let strict = || TypeSettings { reject_mismatch: true, ..TypeSettings::default() };
        for (name, claimed, head) in [
            ("a.png", "image/png", PNG),
            ("a.jpg", "image/jpg", b"\xff\xd8\xff\xe0" as &[u8]),
            ("a.md", "text/markdown", b"# words"),
            ("a.svg", "image/svg+xml", b"<svg/>"),
            ("a.json", "application/json", b"{}"),
        ] {
            assert_eq!(judge(strict(), name, claimed, head), Verdict::accept(), "{name}");
        }
        for (name, claimed, head) in
            [("a.png", "image/png", EXE), ("a.png", "image/png", b"words"), ("a.pdf", "application/pdf", PNG)]
        {
            assert!(matches!(judge(strict(), name, claimed, head), Verdict::Reject { .. }), "{name}");
        }
        // Without the strict setting, the content decides.
        let Verdict::Accept(findings) = judge(TypeSettings::default(), "a.pdf", "application/pdf", PNG)
        else {
            panic!("not accepted");
        };
        assert_eq!(findings.content_type.as_deref(), Some("image/png"));
    }
}
