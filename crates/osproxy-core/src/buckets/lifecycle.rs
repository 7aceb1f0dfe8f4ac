//! Lifecycle rules of buckets: when objects and uploads expire.

use std::collections::BTreeSet;

pub use osproxy_api::v1::LifecycleRule;
use time::{Date, format_description::BorrowedFormatItem, macros::format_description};

use super::{MAX_ID, parse_rules};
use crate::{Error, Result, ops::put_object::MAX_OBJECT_KEY};

/// Maximum number of rules of a bucket.
pub const MAX_RULES: usize = 1000;
/// A day in milliseconds.
const DAY_MS: i64 = 24 * 3_600_000;
const DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");

/// The lifecycle rules of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LifecycleRules(Vec<LifecycleRule>);

/// When an object expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry<'r> {
    /// In milliseconds since the Unix epoch.
    pub at: i64,
    /// Name of the rule.
    pub rule: &'r str,
}

impl LifecycleRules {
    /// Checks rules, and names those that have no name. Fails with `InvalidArgument`.
    pub(crate) fn new(mut rules: Vec<LifecycleRule>) -> Result<Self> {
        let invalid = |message: &str| Error::invalid(message.to_owned()).with_field("lifecycle");
        if rules.len() > MAX_RULES {
            return Err(invalid("a bucket can have at most 1000 lifecycle rules"));
        }
        let mut ids = BTreeSet::new();
        for (number, rule) in (1..).zip(&mut rules) {
            let id = rule.id.get_or_insert_with(|| format!("rule-{number}"));
            if id.is_empty() || id.chars().count() > MAX_ID {
                return Err(invalid("the id of a rule must have 1 to 255 characters"));
            }
            if !ids.insert(id.clone()) {
                return Err(invalid("RuleId must be unique. Found same ID for more than one rule"));
            }
            if let Some(problem) = problem(rule) {
                return Err(invalid(problem));
            }
        }
        Ok(Self(rules))
    }

    /// Parses stored rules.
    pub fn parse(text: Option<&str>) -> Self {
        Self(parse_rules(text))
    }

    /// The rules.
    pub fn rules(&self) -> &[LifecycleRule] {
        &self.0
    }

    fn enabled(&self) -> impl Iterator<Item = &LifecycleRule> {
        self.0.iter().filter(|rule| rule.enabled)
    }

    /// When an object expires, by the rule that is due first; `None` if it stays.
    pub fn expiry_of(&self, key: &str, size: u64, modified_at: i64) -> Option<Expiry<'_>> {
        let applies = |rule: &&LifecycleRule| {
            key.starts_with(&rule.prefix)
                && rule.larger_than.is_none_or(|limit| size > limit)
                && rule.smaller_than.is_none_or(|limit| size < limit)
        };
        let expiries = self.enabled().filter(applies).filter_map(|rule| {
            let at = match (&rule.expire_on, rule.expire_after_days) {
                (Some(day), _) => parse_day(day)?,
                (None, Some(days)) => midnight_after(modified_at, days),
                (None, None) => return None,
            };
            Some(Expiry { at, rule: rule.id.as_deref().unwrap_or_default() })
        });
        expiries.min_by_key(|expiry| expiry.at)
    }

    /// When a multipart upload is aborted, in milliseconds since the Unix epoch; `None` if it stays.
    pub(crate) fn abort_at(&self, key: &str, created_at: i64) -> Option<i64> {
        let applies = self.enabled().filter(|rule| key.starts_with(&rule.prefix));
        let days = applies.filter_map(|rule| rule.abort_uploads_after_days).min()?;
        Some(midnight_after(created_at, days))
    }

    /// Prefixes that cover the keys of all objects that can expire. No one is a prefix of another.
    pub(crate) fn object_prefixes(&self) -> Vec<&str> {
        prefixes(self.enabled().filter(|rule| rule.expire_on.is_some() || rule.expire_after_days.is_some()))
    }

    /// Prefixes that cover the keys of all uploads that can be aborted.
    pub(crate) fn upload_prefixes(&self) -> Vec<&str> {
        prefixes(self.enabled().filter(|rule| rule.abort_uploads_after_days.is_some()))
    }
}

/// Returns the prefixes of rules in order, without those that others cover.
fn prefixes<'r>(rules: impl Iterator<Item = &'r LifecycleRule>) -> Vec<&'r str> {
    let all: BTreeSet<_> = rules.map(|rule| rule.prefix.as_str()).collect();
    let mut prefixes: Vec<&str> = Vec::new();
    for prefix in all {
        if prefixes.last().is_none_or(|last| !prefix.starts_with(last)) {
            prefixes.push(prefix);
        }
    }
    prefixes
}

/// Returns what is wrong with a rule.
fn problem(rule: &LifecycleRule) -> Option<&'static str> {
    let has_size = rule.larger_than.is_some() || rule.smaller_than.is_some();
    if rule.prefix.len() > MAX_OBJECT_KEY {
        return Some("a prefix can have at most 1024 bytes");
    }
    let mut days = [rule.expire_after_days, rule.abort_uploads_after_days].into_iter().flatten();
    if days.any(|days| days == 0 || i32::try_from(days).is_err()) {
        return Some("the number of days must be 1 to 2147483647");
    }
    if rule.expire_after_days.is_some() && rule.expire_on.is_some() {
        return Some("objects expire after a number of days or on a day, not both");
    }
    if rule.expire_on.as_ref().is_some_and(|day| parse_day(day).is_none()) {
        return Some("`expire_on` must be a day such as 2026-12-31");
    }
    if rule.expire_on.is_none() && rule.expire_after_days.is_none() && rule.abort_uploads_after_days.is_none()
    {
        return Some("At least one action needs to be specified in a rule");
    }
    if has_size && rule.abort_uploads_after_days.is_some() {
        return Some("uploads that are not complete have no size: use another rule to abort them");
    }
    let sizes = rule.larger_than.zip(rule.smaller_than);
    if sizes.is_some_and(|(larger, smaller)| larger >= smaller) {
        return Some("no object has a size between `larger_than` and `smaller_than`");
    }
    None
}

/// Returns the first midnight (UTC) that is at least `days` after `ms`.
fn midnight_after(ms: i64, days: u32) -> i64 {
    next_midnight(ms.saturating_add(i64::from(days) * DAY_MS - 1))
}

/// Returns the first midnight (UTC) after `ms`, in milliseconds since the Unix epoch.
pub(crate) fn next_midnight(ms: i64) -> i64 {
    (ms.div_euclid(DAY_MS) + 1).saturating_mul(DAY_MS)
}

/// Returns the midnight (UTC) at which a day begins, in milliseconds since the Unix epoch.
pub fn parse_day(text: &str) -> Option<i64> {
    let day = Date::parse(text, DAY).ok()?;
    Some(day.midnight().assume_utc().unix_timestamp() * 1000)
}

/// Formats the day on which a time lies.
pub fn format_day(ms: i64) -> Option<String> {
    let at = time::OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000)).ok()?;
    at.date().format(DAY).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(prefix: &str, days: Option<u32>) -> LifecycleRule {
        LifecycleRule {
            id: None,
            enabled: true,
            prefix: prefix.to_owned(),
            larger_than: None,
            smaller_than: None,
            expire_after_days: days,
            expire_on: None,
            abort_uploads_after_days: None,
        }
    }

    #[test]
    fn objects_expire_at_midnight() {
        let noon = parse_day("2026-01-15").unwrap() + DAY_MS / 2;
        let rules = LifecycleRules::new(vec![
            rule("logs/", Some(3)),
            LifecycleRule { enabled: false, ..rule("", Some(1)) },
            LifecycleRule { expire_on: Some("2026-01-17".to_owned()), ..rule("logs/old", None) },
            LifecycleRule { larger_than: Some(10), smaller_than: Some(20), ..rule("sized", Some(1)) },
            LifecycleRule { abort_uploads_after_days: Some(2), ..rule("logs/", None) },
        ])
        .unwrap();
        let day = |key: &str, size| {
            let expiry = rules.expiry_of(key, size, noon)?;
            assert_eq!(expiry.at % DAY_MS, 0);
            Some((format_day(expiry.at).unwrap(), expiry.rule.to_owned()))
        };
        let expected = |day: &str, rule: &str| Some((day.to_owned(), rule.to_owned()));
        assert_eq!(day("logs/a", 1), expected("2026-01-19", "rule-1"));
        assert_eq!(day("logs/older", 1), expected("2026-01-17", "rule-3"));
        assert_eq!(day("other", 1), None);
        assert_eq!((day("sized", 10), day("sized", 20)), (None, None));
        assert_eq!(day("sized", 11), expected("2026-01-17", "rule-4"));
        assert_eq!(rules.abort_at("logs/a", noon), parse_day("2026-01-18"));
        assert_eq!(rules.abort_at("other", noon), None);
        assert_eq!(rules.object_prefixes(), ["logs/", "sized"]);
        assert_eq!(rules.upload_prefixes(), ["logs/"]);
        let midnight = parse_day("2026-01-15").unwrap();
        assert_eq!(rules.expiry_of("logs/", 0, midnight).unwrap().at, midnight + 3 * DAY_MS);
        assert_eq!(next_midnight(midnight), midnight + DAY_MS);
    }

    #[test]
    fn rules_are_limited() {
        let new = |rules| LifecycleRules::new(rules).map(drop);
        let named = |id: &str| LifecycleRule { id: Some(id.to_owned()), ..rule("", Some(1)) };
        assert!(new(vec![rule("", Some(1)); MAX_RULES]).is_ok());
        assert!(new(vec![rule("", Some(1)); MAX_RULES + 1]).is_err());
        assert!(new(vec![named("a"), named("a")]).is_err());
        for bad in [
            named(""),
            named(&"x".repeat(MAX_ID + 1)),
            rule("", None),
            rule("", Some(0)),
            rule(&"x".repeat(1025), Some(1)),
            LifecycleRule { abort_uploads_after_days: Some(0), ..rule("", None) },
            LifecycleRule { expire_on: Some("2026-02-30".to_owned()), ..rule("", None) },
            LifecycleRule { expire_on: Some("2026-02-03".to_owned()), ..rule("", Some(1)) },
            LifecycleRule { larger_than: Some(5), smaller_than: Some(5), ..rule("", Some(1)) },
            LifecycleRule { larger_than: Some(5), abort_uploads_after_days: Some(1), ..rule("", None) },
        ] {
            assert!(new(vec![bad.clone()]).is_err(), "{bad:?}");
        }
    }
}
