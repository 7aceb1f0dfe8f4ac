//! Which events an endpoint gets.

use std::collections::BTreeMap;

use osproxy_meta::{Event, EventFilter, EventKind, FileMetadata};
use osproxy_storage::Category;
use osproxy_types::tenant::Tenant;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, metadata::check_metadata};

/// Maximum number of metadata entries in a filter.
const MAX_METADATA: usize = 16;

/// Selects events. An event must meet all conditions that are set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookFilter {
    /// Names of kinds; empty: all kinds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Names of categories; empty: all events, also those that are not about a file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
    /// Entries that the metadata of the file must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: FileMetadata,
}

/// The fields of a payload that a filter compares.
#[derive(Deserialize)]
struct Compared {
    #[serde(default)]
    category: String,
    /// `None` if the event is not about a file, or if its metadata was left out because it is long.
    #[serde(default)]
    metadata: Option<FileMetadata>,
}

impl WebhookFilter {
    /// Removes repetitions, and checks the names. Fails with `InvalidArgument`.
    pub fn checked(mut self) -> Result<Self> {
        self.types.sort_unstable();
        self.types.dedup();
        self.categories.sort_unstable();
        self.categories.dedup();
        if let Some(unknown) = self.types.iter().find(|name| EventKind::of_name(name).is_none()) {
            let known: Vec<_> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
            let message = format!("`types` has the unknown type {unknown:?}; use {}", known.join(", "));
            return Err(Error::invalid(message).with_field("types"));
        }
        let is_category = |name: &String| Category::ALL.iter().any(|category| category.as_str() == name);
        if let Some(unknown) = self.categories.iter().find(|name| !is_category(name)) {
            let known: Vec<_> = Category::ALL.iter().map(|category| category.as_str()).collect();
            let message =
                format!("`categories` has the unknown category {unknown:?}; use {}", known.join(", "));
            return Err(Error::invalid(message).with_field("categories"));
        }
        if self.metadata.len() > MAX_METADATA {
            let message = format!("`metadata` must have at most {MAX_METADATA} entries");
            return Err(Error::invalid(message).with_field("metadata"));
        }
        check_metadata(&self.metadata)?;
        Ok(self)
    }

    /// Parses a filter in the database.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(Error::internal)
    }

    /// Returns the filter as text for the database.
    pub fn to_text(&self) -> Result<String> {
        serde_json::to_string(self).map_err(Error::internal)
    }

    /// Returns the part of the filter that the database applies.
    pub(super) fn of_tenant(&self, tenant: &Tenant) -> EventFilter {
        let kinds = self.types.iter().filter_map(|name| EventKind::of_name(name)).collect();
        EventFilter { tenant: Some(tenant.clone()), kinds }
    }

    /// Whether the event meets the conditions.
    pub(super) fn matches(&self, event: &Event) -> bool {
        if !self.types.is_empty() && !self.types.contains(&event.kind) {
            return false;
        }
        if self.categories.is_empty() && self.metadata.is_empty() {
            return true;
        }
        let Ok(compared) = serde_json::from_str::<Compared>(&event.payload) else {
            return false;
        };
        let has_metadata = match &compared.metadata {
            Some(metadata) => self.metadata.iter().all(|(key, value)| metadata.get(key) == Some(value)),
            // Nobody must miss an event because its metadata is not known.
            None => self.metadata.is_empty() || event.uid.is_some(),
        };
        has_metadata && (self.categories.is_empty() || self.categories.contains(&compared.category))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, payload: &str) -> Event {
        Event {
            position: 1,
            tenant: Tenant::default(),
            kind: kind.to_owned(),
            uid: None,
            created_at: 0,
            payload: payload.to_owned(),
        }
    }

    fn filter(text: &str) -> WebhookFilter {
        WebhookFilter::parse(text).unwrap().checked().unwrap()
    }

    #[test]
    fn an_event_must_meet_all_conditions() {
        let completed = event("file.completed", r#"{"category": "image", "metadata": {"a": "1", "b": "2"}}"#);
        let exceeded = event("quota.exceeded", r#"{"tenant": "default"}"#);
        for (text, gets_completed, gets_exceeded) in [
            ("{}", true, true),
            (r#"{"types": ["file.completed", "file.deleted"]}"#, true, false),
            (r#"{"types": ["quota.exceeded"]}"#, false, true),
            (r#"{"categories": ["image", "video"]}"#, true, false),
            (r#"{"categories": ["video"]}"#, false, false),
            (r#"{"metadata": {"a": "1"}}"#, true, false),
            (r#"{"metadata": {"a": "1", "b": "2"}}"#, true, false),
            (r#"{"metadata": {"a": "2"}}"#, false, false),
            (r#"{"metadata": {"c": ""}}"#, false, false),
            (r#"{"types": ["file.completed"], "categories": ["video"]}"#, false, false),
        ] {
            let filter = filter(text);
            assert_eq!(filter.matches(&completed), gets_completed, "{text}");
            assert_eq!(filter.matches(&exceeded), gets_exceeded, "{text}");
            assert_eq!(WebhookFilter::parse(&filter.to_text().unwrap()).unwrap(), filter);
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        for (text, field) in [
            (r#"{"types": ["file.complete"]}"#, "types"),
            (r#"{"types": ["webhook.test"]}"#, "types"),
            (r#"{"categories": ["picture"]}"#, "categories"),
            (r#"{"metadata": {"": "x"}}"#, "metadata"),
        ] {
            let error = WebhookFilter::parse(text).unwrap().checked().unwrap_err();
            assert_eq!(error.members().collect::<Vec<_>>(), [("field", &field.into())], "{text}");
        }
    }
}
