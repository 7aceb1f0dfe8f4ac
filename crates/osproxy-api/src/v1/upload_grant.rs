use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::upload::{an_hour, seconds};
use crate::{
    integer, nullable,
    schema::{Metadata, MimePattern, Moment, Network, Uid},
};

/// Body of `POST /upload-grants`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = v1::CreateUploadGrantRequest)]
pub struct CreateUploadGrantRequest {
    /// Lifetime of the grant in seconds; defaults to one hour. An upload that was created before the
    /// grant expires can be finished later.
    #[serde(default = "an_hour", deserialize_with = "seconds")]
    #[schema(value_type = Option<i64>, required = false, example = 3600, minimum = 1, maximum = 31_536_000)]
    pub expires_in: i64,
    /// Maximum number of files. Uploads that were aborted or have expired do not count.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    #[schema(example = 10, minimum = 1, maximum = 1_000_000)]
    pub max_uploads: Option<u64>,
    /// Maximum size of a file in bytes.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    #[schema(example = 1_073_741_824)]
    pub max_size: Option<u64>,
    /// MIME types, or families such as `image/*`. A file must have one of them. The type is compared
    /// with the type that osproxy detects from the beginning of the content and from the file name.
    #[serde(default, deserialize_with = "nullable::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<MimePattern>>, required = false, example = json!(["image/*", "application/pdf"]), max_items = 16)]
    pub content_types: Vec<String>,
    /// Networks from which the grant and the links of its uploads may be used.
    #[serde(default, deserialize_with = "nullable::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<Network>>, required = false, max_items = 16)]
    pub networks: Vec<String>,
    /// Prefix that is put before the name of every file; at most 255 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "user-17-", max_length = 255, pattern = "^[^/\\x00]*$")]
    pub name_prefix: Option<String>,
    /// Metadata of every file: up to 32 keys and 8 KiB. Replaces metadata of the client with the same
    /// keys.
    #[serde(default, deserialize_with = "nullable::map", skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Option<Metadata>, required = false)]
    pub metadata: BTreeMap<String, String>,
}

/// An upload grant: the right of anyone who has one of its links to create uploads of the tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UploadGrant {
    /// Id of the grant.
    #[schema(value_type = Uid)]
    pub id: String,
    /// State of the grant.
    pub state: UploadGrantState,
    /// Links for creating uploads, if the grant is `active`. Only for the API key that created the
    /// grant, and for keys with the scope `admin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<UploadGrantLinks>,
    /// Number of files that were created under the grant. Does not include files whose upload was
    /// aborted or has expired.
    pub uploads: u32,
    /// When the grant was created.
    #[schema(value_type = Moment)]
    pub created_at: String,
    /// When the grant expires.
    #[schema(value_type = Moment)]
    pub expires_at: String,
    /// When the grant was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub revoked_at: Option<String>,
    /// Maximum number of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_uploads: Option<u32>,
    /// Maximum size of a file in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    /// MIME types of which a file must have one. If empty, all are allowed.
    #[schema(value_type = Vec<MimePattern>)]
    pub content_types: Vec<String>,
    /// Networks from which the grant may be used. If empty, all are allowed.
    #[schema(value_type = Vec<Network>)]
    pub networks: Vec<String>,
    /// Prefix of the names of the files.
    pub name_prefix: String,
    /// Metadata of the files. Only for the API key that created the grant, and for keys with the scope
    /// `read`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Metadata>)]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// The state of an upload grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadGrantState {
    /// Uploads can be created.
    Active,
    /// The maximum number of files is reached.
    UsedUp,
    /// The grant has expired.
    Expired,
    /// The grant was revoked.
    Revoked,
}

/// Relative URLs for creating uploads. Anyone who has a URL can use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadGrantLinks {
    /// For clients of the tus protocol (`endpoint` of tus-js-client).
    #[schema(
        example = "/tus?grant=1548722401845518336&date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub tus: String,
    /// `POST` creates an upload as with an API key, but without `constraints`.
    #[schema(
        example = "/api/v1/uploads?grant=1548722401845518336&date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl"
    )]
    pub uploads: String,
}

/// A page of upload grants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UploadGrants {
    /// The grants of this page, newest first.
    pub grants: Vec<UploadGrant>,
    /// Value of the parameter `cursor` for the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "3q2-7w")]
    pub next_cursor: Option<String>,
}
