use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::schema::MissingParts;

/// The content type of a problem document.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// A problem document (RFC 9457). Some problems have additional members, see `ProblemMembers`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:osproxy:error:` followed by the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:osproxy:error:invalid_argument", pattern = "^urn:osproxy:error:[a-z0-9_]+$")]
    pub kind: String,
    /// Short summary, the same for every problem of this type.
    #[schema(example = "Invalid argument", min_length = 1)]
    pub title: String,
    /// The HTTP status.
    #[schema(example = 400, minimum = 400, maximum = 599)]
    pub status: u16,
    /// What went wrong, as one English sentence.
    #[schema(example = "`expires_in` must be 1 to 31536000 seconds", min_length = 1)]
    pub detail: String,
    /// The error code, for programs; also in the header `osproxy-error`.
    #[schema(example = "invalid_argument")]
    pub code: String,
    /// Id of the request in the log of the service; also in the header `x-request-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "5f1c2a9e00000001")]
    pub request_id: Option<String>,
    /// Additional members.
    #[serde(flatten)]
    #[schema(value_type = ProblemMembers)]
    pub members: Map<String, Value>,
}

/// Additional members of some problems.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ProblemMembers {
    /// The invalid field, parameter or header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "expires_in")]
    pub field: Option<String>,
    /// For `parts_missing`: the numbers of the missing parts, at most one thousand ranges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<MissingParts>)]
    pub missing: Option<Vec<Value>>,
}
