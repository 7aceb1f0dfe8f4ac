use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    integer, nullable,
    schema::{ClientPath, Moment, Network, Uid},
};

/// Body of `POST /files/{uid}/links`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateLinkRequest {
    /// Lifetime of the link in seconds; the maximum is the setting `links.max_lifetime`.
    #[serde(deserialize_with = "integer::deserialize")]
    #[schema(example = 3600, minimum = 1, maximum = 31_536_000)]
    pub expires_in: i64,
    /// Whether a browser displays or saves the content.
    #[serde(default, deserialize_with = "nullable::deserialize")]
    #[schema(value_type = Option<Disposition>)]
    pub disposition: Disposition,
    /// File name for saving the content; defaults to the name of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ClientPath>)]
    pub filename: Option<String>,
    /// Networks from which the link may be used, such as `10.0.0.0/8`. An empty list allows every
    /// network.
    #[serde(default, deserialize_with = "nullable::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<Network>>, required = false, max_items = 16)]
    pub networks: Vec<String>,
    /// Maximum number of uses. Each response with content counts as one use, including those with a
    /// range. Unlimited if absent.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    #[schema(example = 10, minimum = 1, maximum = 1_000_000)]
    pub max_uses: Option<u64>,
}

/// Body of `POST /links`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateLinksRequest {
    /// The uids of the files, 1 to 100.
    #[schema(value_type = Vec<Uid>, min_items = 1, max_items = 100)]
    pub uids: Vec<String>,
    /// Lifetime of the links in seconds; the maximum is the setting `links.max_lifetime`.
    #[serde(deserialize_with = "integer::deserialize")]
    #[schema(example = 3600, minimum = 1, maximum = 31_536_000)]
    pub expires_in: i64,
    /// Whether a browser displays or saves the content.
    #[serde(default, deserialize_with = "nullable::deserialize")]
    #[schema(value_type = Option<Disposition>)]
    pub disposition: Disposition,
    /// Networks from which the links may be used, such as `10.0.0.0/8`. An empty list allows every
    /// network.
    #[serde(default, deserialize_with = "nullable::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<Network>>, required = false, max_items = 16)]
    pub networks: Vec<String>,
    /// Maximum number of uses of each link. Each response with content counts as one use, including
    /// those with a range. Unlimited if absent.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    #[schema(example = 10, minimum = 1, maximum = 1_000_000)]
    pub max_uses: Option<u64>,
}

/// Whether a browser displays or saves the content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// Display the content, unless browsers could execute scripts in it.
    #[default]
    Inline,
    /// Save it.
    Attachment,
}

impl Disposition {
    /// The name used in JSON and in links.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Attachment => "attachment",
        }
    }
}

/// A download link. Anyone who has it can read the file.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedLink {
    /// Relative URL: path and query.
    #[schema(
        example = "/f/1548722401845518336/film.mp4?date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl&disposition=inline"
    )]
    pub url: String,
    /// When the link expires.
    #[schema(value_type = Moment)]
    pub expires_at: String,
}

/// Download links of several files.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedLinks {
    /// One entry for each uid, in the order of the request.
    pub links: Vec<FileLink>,
}

/// The download link of one of several files, or why there is none.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct FileLink {
    /// The uid of the file.
    #[schema(value_type = Uid)]
    pub uid: String,
    /// Relative URL: path and query. Absent if there is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "/f/1548722401845518336/film.mp4?date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl&disposition=inline"
    )]
    pub url: Option<String>,
    /// When the link expires. Absent if there is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub expires_at: Option<String>,
    /// The error code, if there is no link: `file_not_found`, `file_gone`, `file_corrupt` or
    /// `not_stored`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "file_not_found")]
    pub error: Option<String>,
}
