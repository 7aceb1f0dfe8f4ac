//! The JSON answer of a webhook or command.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Findings, StepError, Verdict};
use crate::metadata;

/// Maximum length of a reason, in bytes.
const MAX_REASON: usize = 500;
/// Maximum size of `media`, in bytes of JSON.
const MAX_MEDIA: usize = 8 << 10;
/// Maximum number of bytes of a wrong answer that an error message shows.
const MAX_SHOWN: usize = 200;

/// An answer as it is sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    verdict: AnsweredVerdict,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, Option<String>>,
    #[serde(default)]
    media: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum AnsweredVerdict {
    Accept,
    Reject,
    Quarantine,
}

/// Parses an answer. Everything that it contains comes from outside and is checked.
pub(super) fn parse(answer: &[u8]) -> Result<Verdict, StepError> {
    let parsed = serde_json::from_slice::<Answer>(answer).map_err(|error| {
        let start = answer.get(..MAX_SHOWN).unwrap_or(answer);
        StepError::failed(format!("the answer is no verdict ({error}): {:?}", String::from_utf8_lossy(start)))
    })?;
    let reason = || shorten(&parsed.reason, "no reason given");
    match parsed.verdict {
        AnsweredVerdict::Reject => return Ok(Verdict::Reject { reason: reason() }),
        AnsweredVerdict::Quarantine => return Ok(Verdict::Quarantine { reason: reason() }),
        AnsweredVerdict::Accept => {}
    }
    let values: BTreeMap<_, _> =
        parsed.metadata.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect();
    if let Err(error) = metadata::check_metadata(&values) {
        return Err(StepError::failed(format!("the answer has invalid metadata: {}", error.message)));
    }
    if serde_json::to_string(&parsed.media).map_or(true, |text| text.len() > MAX_MEDIA) {
        return Err(StepError::failed(format!("`media` of the answer has more than {MAX_MEDIA} bytes")));
    }
    if let Some(content_type) = &parsed.content_type
        && (content_type.contains('*') || !crate::links::constraints::is_mime_pattern(content_type))
    {
        return Err(StepError::failed("`content_type` of the answer is no MIME type"));
    }
    Ok(Verdict::Accept(Findings {
        content_type: parsed.content_type,
        media: parsed.media,
        metadata: parsed.metadata,
        basis: None,
    }))
}

/// Returns a text without control characters that is at most 500 bytes long; `default` if it is
/// empty.
pub(super) fn shorten(text: &str, default: &str) -> String {
    let mut short: String = text.chars().filter(|letter| !letter.is_control()).collect();
    let end = (0..=MAX_REASON.min(short.len())).rev().find(|at| short.is_char_boundary(*at));
    short.truncate(end.unwrap_or(0));
    if short.trim().is_empty() { default.to_owned() } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_verdicts() {
        assert_eq!(parse(br#"{"verdict":"accept"}"#).unwrap(), Verdict::accept());
        let reason = "not\u{7} allowed";
        let answer = serde_json::json!({"verdict": "reject", "reason": reason}).to_string();
        assert_eq!(parse(answer.as_bytes()).unwrap(), Verdict::Reject { reason: "not allowed".to_owned() });
        let answer = br#"{"verdict":"accept","metadata":{"seen":"yes","old":null},"media":{"pages":3}}"#;
        let Verdict::Accept(findings) = parse(answer).unwrap() else {
            panic!("not accepted");
        };
        assert_eq!(findings.metadata.get("old"), Some(&None));
        assert_eq!(findings.media.get("pages"), Some(&3.into()));
    }

    #[test]
    fn other_answers_are_errors() {
        let many = format!(r#"{{"verdict":"accept","media":{{"x":"{}"}}}}"#, "x".repeat(MAX_MEDIA));
        let wrong = [
            "",
            "accept",
            "[]",
            "{}",
            r#"{"verdict":"maybe"}"#,
            r#"{"verdict":"accept"} trailing"#,
            r#"{"verdict":"accept","metadata":{"n":1}}"#,
            r#"{"verdict":"accept","more":1}"#,
            r#"{"verdict":"accept","content_type":"image/*"}"#,
            &many,
        ];
        for answer in wrong {
            assert!(parse(answer.as_bytes()).is_err(), "{answer}");
        }
    }

    #[test]
    fn reasons_are_short() {
        assert_eq!(shorten(&"ü".repeat(400), "").len(), 500);
        assert_eq!(shorten("\n \t", "none"), "none");
    }
}
