//! CORS rules of buckets, as in AWS.

pub use osproxy_api::v1::CorsRule;

use super::MAX_ID;
use crate::{Error, Result};

/// Maximum number of rules of a bucket.
pub const MAX_RULES: usize = 100;
/// The methods that rules can allow.
pub const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "HEAD"];

/// A rule that allows a request.
#[derive(Clone, Copy, Debug)]
pub struct CorsGrant<'r> {
    /// The rule.
    pub rule: &'r CorsRule,
    /// Whether the rule allows every origin.
    pub any_origin: bool,
}

/// Returns the first rule that allows a request of a page with this origin, with this method and
/// these request headers.
pub fn find_rule<'r>(
    rules: &'r [CorsRule],
    origin: &str,
    method: &str,
    headers: &[&str],
) -> Option<CorsGrant<'r>> {
    rules.iter().find_map(|rule| {
        let allowed_origin = rule.allowed_origins.iter().find(|pattern| matches(pattern, origin))?;
        let allows_method = rule.allowed_methods.iter().any(|allowed| allowed == method);
        let allows = |header: &str| {
            let header = header.to_ascii_lowercase();
            rule.allowed_headers.iter().any(|pattern| matches(&pattern.to_ascii_lowercase(), &header))
        };
        let is_allowed = allows_method && headers.iter().all(|header| allows(header));
        is_allowed.then(|| CorsGrant { rule, any_origin: allowed_origin == "*" })
    })
}

/// Whether a pattern with at most one `*` matches.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => {
            text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
        }
    }
}

/// Checks rules. Fails with `InvalidArgument`.
pub(crate) fn check(rules: &[CorsRule]) -> Result<()> {
    let invalid = |message: String| Err(Error::invalid(message).with_field("cors"));
    if rules.len() > MAX_RULES {
        return invalid(format!("a bucket can have at most {MAX_RULES} CORS rules"));
    }
    for rule in rules {
        if rule.id.as_ref().is_some_and(|id| id.chars().count() > MAX_ID) {
            return invalid(format!("the id of a rule can have at most {MAX_ID} characters"));
        }
        if rule.max_age_secs.is_some_and(|age| i32::try_from(age).is_err()) {
            return invalid("`max_age_secs` can be at most 2147483647".to_owned());
        }
        if rule.allowed_origins.is_empty() || rule.allowed_methods.is_empty() {
            return invalid(
                "a CORS rule needs at least one allowed origin and one allowed method".to_owned(),
            );
        }
        if let Some(method) = rule.allowed_methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
            return invalid(format!(
                "Found unsupported HTTP method in CORS config. Unsupported method is {method}"
            ));
        }
        let has_wildcards = |text: &&String| text.matches('*').count() > 1;
        if let Some(origin) = rule.allowed_origins.iter().find(has_wildcards) {
            return invalid(format!("AllowedOrigin \"{origin}\" can not have more than one wildcard."));
        }
        if let Some(header) = rule.allowed_headers.iter().find(has_wildcards) {
            return invalid(format!("AllowedHeader \"{header}\" can not have more than one wildcard."));
        }
        if let Some(header) = rule.expose_headers.iter().find(|header| header.contains('*')) {
            return invalid(format!(
                "ExposeHeader \"{header}\" contains wildcard. We currently do not support wildcard for \
                 ExposeHeader."
            ));
        }
        let mut headers = rule.allowed_headers.iter().chain(&rule.expose_headers);
        if let Some(header) = headers.find(|header| !is_token(header)) {
            return invalid(format!("\"{header}\" is not the name of a header"));
        }
    }
    Ok(())
}

/// Whether `text` can be the name of a header.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(origins: &[&str], methods: &[&str], headers: &[&str]) -> CorsRule {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        CorsRule {
            allowed_origins: owned(origins),
            allowed_methods: owned(methods),
            allowed_headers: owned(headers),
            ..CorsRule::default()
        }
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rules = [
            rule(&["https://*.example.org"], &["PUT"], &["x-amz-*", "Content-Type"]),
            rule(&["*"], &["GET"], &[]),
        ];
        let found = |origin, method, headers: &[&str]| {
            find_rule(&rules, origin, method, headers).map(|found| found.any_origin)
        };
        assert_eq!(found("https://a.example.org", "PUT", &["content-type", "X-Amz-Date"]), Some(false));
        assert_eq!(found("https://a.example.org", "PUT", &["authorization"]), None);
        assert_eq!(found("https://example.org", "PUT", &[]), None);
        assert_eq!(found("https://.example.org", "GET", &[]), Some(true));
        assert_eq!(found("null", "GET", &[]), Some(true));
        assert_eq!(found("null", "HEAD", &[]), None);
        assert_eq!(found("null", "GET", &["range"]), None);
        assert!(!matches("a*a", "a") && matches("a*a", "aa") && matches("*", ""));
    }

    #[test]
    fn rules_are_limited() {
        let good = rule(&["*"], &["GET"], &["*"]);
        assert!(check(&vec![good.clone(); MAX_RULES]).is_ok());
        assert!(check(&vec![good.clone(); MAX_RULES + 1]).is_err());
        for bad in [
            rule(&["*"], &["PATCH"], &[]),
            rule(&["*"], &["get"], &[]),
            rule(&["https://*.*"], &["GET"], &[]),
            rule(&["*"], &["GET"], &["*-*"]),
            rule(&["*"], &["GET"], &["a b"]),
            rule(&[], &["GET"], &[]),
            rule(&["*"], &[], &[]),
            CorsRule { expose_headers: vec!["x-*".to_owned()], ..good.clone() },
            CorsRule { expose_headers: vec!["a\r\nb".to_owned()], ..good.clone() },
            CorsRule { id: Some("x".repeat(MAX_ID + 1)), ..good },
        ] {
            assert!(check(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
    }
}
