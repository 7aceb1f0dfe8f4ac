use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The content type of a problem document.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// An error, as RFC 9457 has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:osproxy:error:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The error in a few words, the same for every problem of a type.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time: one English sentence.
    pub detail: String,
    /// The name of the error, for programs; that of the header `osproxy-error`.
    pub code: String,
    /// The request in the service's log; that of the header `x-request-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What else there is to know: `field`, the field or parameter that is wrong; `missing`, the numbers of parts that
    /// are not there.
    #[serde(flatten)]
    pub members: Map<String, Value>,
}
