use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::schema::MissingParts;

/// The content type of a problem document.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// An error, as RFC 9457 has it. Some have members of their own, see `ProblemMembers`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:osproxy:error:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:osproxy:error:invalid_argument", pattern = "^urn:osproxy:error:[a-z0-9_]+$")]
    pub kind: String,
    /// The error in a few words, the same for every problem of a type.
    #[schema(example = "Invalid argument", min_length = 1)]
    pub title: String,
    /// The HTTP status.
    #[schema(example = 400, minimum = 400, maximum = 599)]
    pub status: u16,
    /// What went wrong this time: one English sentence.
    #[schema(example = "`expires_in` must be 1 to 31536000 seconds", min_length = 1)]
    pub detail: String,
    /// The name of the error, for programs; that of the header `osproxy-error`.
    #[schema(example = "invalid_argument")]
    pub code: String,
    /// The request in the service's log; that of the header `x-request-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "5f1c2a9e00000001")]
    pub request_id: Option<String>,
    /// What else there is to know.
    #[serde(flatten)]
    #[schema(value_type = ProblemMembers)]
    pub members: Map<String, Value>,
}

/// Members that some problems have.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ProblemMembers {
    /// The field, parameter or header that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "expires_in")]
    pub field: Option<String>,
    /// With `parts_missing`, the numbers of the parts that are not there: the first thousand ranges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<MissingParts>)]
    pub missing: Option<Vec<Value>>,
}
