use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    nullable,
    schema::{CorsMethod, Day, HeaderName, HeaderPattern, Moment, Origin, Uid},
};

/// Body of `PUT /buckets/{bucket}`: all settings of a bucket. Absent settings get their default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BucketSettings {
    /// Whether everybody may read the objects, without a signature. Default: `false`.
    #[serde(default, deserialize_with = "nullable::deserialize")]
    #[schema(value_type = Option<bool>, required = false)]
    pub public_read: bool,
    /// Pages of other origins that may use the bucket; up to 100 rules.
    #[serde(default, deserialize_with = "nullable::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<CorsRule>>, required = false, max_items = 100)]
    pub cors: Vec<CorsRule>,
    /// What expires, and when; up to 1000 rules.
    #[serde(default, deserialize_with = "nullable::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<LifecycleRule>>, required = false, max_items = 1000)]
    pub lifecycle: Vec<LifecycleRule>,
}

/// Allows pages of other origins to use a bucket. The first rule that matches a request counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CorsRule {
    /// Name of the rule, up to 255 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub id: Option<String>,
    /// Origins, such as `https://example.org`. Each may have one `*`.
    #[schema(value_type = Vec<Origin>, min_items = 1, example = json!(["https://*.example.org"]))]
    pub allowed_origins: Vec<String>,
    /// Methods: `GET`, `HEAD`, `PUT`, `POST` and `DELETE`.
    #[schema(value_type = Vec<CorsMethod>, min_items = 1, example = json!(["GET", "PUT"]))]
    pub allowed_methods: Vec<String>,
    /// Request headers that a page may send. Each may have one `*`.
    #[serde(default, deserialize_with = "nullable::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<HeaderPattern>>, required = false, example = json!(["*"]))]
    pub allowed_headers: Vec<String>,
    /// Response headers that a page may read.
    #[serde(default, deserialize_with = "nullable::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<HeaderName>>, required = false, example = json!(["ETag"]))]
    pub expose_headers: Vec<String>,
    /// How long a browser may remember the answer to a preflight request, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2_147_483_647)]
    pub max_age_secs: Option<u32>,
}

/// Lets objects expire, or uploads that are not complete. At least one action is required.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LifecycleRule {
    /// Name of the rule, up to 255 characters, unique in the bucket. Generated if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 255)]
    pub id: Option<String>,
    /// Whether the rule is applied. Default: `true`.
    #[serde(default = "enabled")]
    #[schema(required = false)]
    pub enabled: bool,
    /// Only keys that start with this.
    #[serde(default, deserialize_with = "nullable::deserialize", skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Option<String>, required = false, max_length = 1024, example = "logs/")]
    pub prefix: String,
    /// Only objects with more bytes than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub larger_than: Option<u64>,
    /// Only objects with fewer bytes than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smaller_than: Option<u64>,
    /// Objects expire at the first midnight (UTC) after they are so many days old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    pub expire_after_days: Option<u32>,
    /// Objects expire on this day, at midnight (UTC), and all later ones as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Day>)]
    pub expire_on: Option<String>,
    /// Multipart uploads that are not complete so many days after they were created are aborted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    pub abort_uploads_after_days: Option<u32>,
}

fn enabled() -> bool {
    true
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bucket {
    /// Name of the bucket.
    #[schema(example = "photos")]
    pub name: String,
    /// When the bucket was created.
    #[schema(value_type = Moment)]
    pub created_at: String,
    /// Whether everybody may read the objects.
    pub public_read: bool,
    /// Pages of other origins that may use the bucket.
    pub cors: Vec<CorsRule>,
    /// What expires, and when.
    pub lifecycle: Vec<LifecycleRule>,
}

/// A bucket in a list, without its rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BucketSummary {
    /// Name of the bucket.
    #[schema(example = "photos")]
    pub name: String,
    /// When the bucket was created.
    #[schema(value_type = Moment)]
    pub created_at: String,
    /// Whether everybody may read the objects.
    pub public_read: bool,
}

/// A page of buckets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Buckets {
    /// The buckets of this page, by name.
    pub buckets: Vec<BucketSummary>,
    /// Value of the parameter `cursor` for the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "3q2-7w")]
    pub next_cursor: Option<String>,
}

/// Body of `PUT /buckets/{bucket}/objects/{key}`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachObjectRequest {
    /// Uid of the file that gets the key.
    #[schema(value_type = Uid)]
    pub uid: String,
}
