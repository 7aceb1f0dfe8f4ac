use serde::{Deserialize, Serialize};

/// Body of `POST /files/{uid}/links`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateLinkRequest {
    /// How long the link holds, in seconds.
    pub expires_in: i64,
    /// What a browser shall do with the content.
    #[serde(default)]
    pub disposition: Disposition,
    /// What the file is called where it is saved; its own name if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
}

/// What a browser shall do with content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreatedLink {
    /// Relative: the path and the query.
    pub url: String,
    /// From when on it no longer holds.
    pub expires_at: String,
}
