use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    nullable,
    schema::{ClientPath, Moment, Network},
    whole,
};

/// Body of `POST /files/{uid}/links`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateLinkRequest {
    /// How long the link holds, in seconds; `links.max_expire` says how long at most.
    #[serde(deserialize_with = "whole::deserialize")]
    #[schema(example = 3600, minimum = 1, maximum = 31_536_000)]
    pub expires_in: i64,
    /// What a browser shall do with the content.
    #[serde(default, deserialize_with = "nullable::deserialize")]
    #[schema(value_type = Option<Disposition>)]
    pub disposition: Disposition,
    /// What the file is called where it is saved; its own name if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ClientPath>)]
    pub filename: Option<String>,
    /// Networks that the link may be used from, such as `10.0.0.0/8`; any, if there are none.
    #[serde(default, deserialize_with = "nullable::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<Network>>, required = false, max_items = 16)]
    pub networks: Vec<String>,
    /// How often the content may be read by the link, each answer with content counting, also one with a range; as often as
    /// one likes if it is absent.
    #[serde(default, deserialize_with = "whole::optional", skip_serializing_if = "Option::is_none")]
    #[schema(example = 10, minimum = 1, maximum = 1_000_000)]
    pub max_uses: Option<u64>,
}

/// What a browser shall do with content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// Show it, unless it is of a type that could do harm.
    #[default]
    Inline,
    /// Save it.
    Attachment,
}

impl Disposition {
    /// The name, as it stands in JSON and in links.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Attachment => "attachment",
        }
    }
}

/// A link that lets whoever has it read a file.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedLink {
    /// Relative: the path and the query.
    #[schema(
        example = "/f/1548722401845518336/film.mp4?date=2026-11-22T12:00:00Z&expire=3600&signature=k1.c2lnbmF0dXJl&disposition=inline"
    )]
    pub url: String,
    /// From when on it no longer holds.
    #[schema(value_type = Moment)]
    pub expires_at: String,
}
