//! The headers of responses, and interim responses.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use osproxy_api::{
    resumable::{COMPLETE, INCOMPLETE, INTEROP_VERSION, LIMIT, REASON, STATUS},
    tus::LENGTH,
};
use osproxy_core::ops::{UploadOps, append_upload::UploadOffset};
use osproxy_types::uid::Uid;
use time::OffsetDateTime;

use super::draft::Draft;
use crate::{listener::InterimSender, respond::error::HandlerResult, tus::insert, v1::uploads};

/// Maximum value of an integer in a structured field.
const MAX_INTEGER: u64 = 999_999_999_999_999;

/// The limits of an upload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UploadLimits {
    /// Maximum size of the content, in bytes.
    pub(crate) max_size: u64,
    /// When the upload expires, in seconds since the Unix epoch.
    pub(crate) expires_at: Option<i64>,
}

impl Draft {
    /// Tells the client the URL of its upload by an interim response. Returns `false` if this
    /// connection cannot send interim responses, or the client does not expect them.
    pub(crate) fn announce(self, request: &Parts, location: &str, limits: UploadLimits) -> bool {
        let Some(sender) = request.extensions.get::<InterimSender>() else {
            return false;
        };
        if self.declared_version().is_none() {
            return false;
        }
        let (Ok(location), Ok(status)) = (HeaderValue::try_from(location), StatusCode::from_u16(STATUS))
        else {
            return false;
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, location);
        self.insert_version(&mut headers);
        self.insert_limits(&mut headers, limits);
        sender.send(status, REASON, &headers);
        true
    }

    /// Adds the interop version, if the client has declared one that is supported.
    pub(crate) fn insert_version(self, headers: &mut HeaderMap) {
        if let Some(version) = self.declared_version() {
            insert(headers, INTEROP_VERSION, &version);
        }
    }

    /// Adds whether the content is complete.
    pub(crate) fn insert_completeness(self, headers: &mut HeaderMap, is_complete: bool) {
        if self.uses_incomplete() {
            insert(headers, INCOMPLETE, &boolean(!is_complete));
        } else {
            insert(headers, COMPLETE, &boolean(is_complete));
        }
    }

    /// Adds the limits, in versions that have them.
    pub(crate) fn insert_limits(self, headers: &mut HeaderMap, limits: UploadLimits) {
        if !self.has_limits() {
            return;
        }
        let mut text = format_max_size(limits.max_size);
        if let Some(expires_at) = limits.expires_at {
            let left = expires_at.saturating_sub(OffsetDateTime::now_utc().unix_timestamp()).max(0);
            text = format!("{text}, {}={left}", self.lifetime_key());
        }
        insert(headers, LIMIT, &text);
    }

    /// Renders the response to a request that has appended, without its offset and limits.
    pub(crate) async fn render_appended(
        self,
        uploads: &UploadOps,
        uid: Uid,
        ends_content: bool,
    ) -> HandlerResult<Response> {
        let mut response = if ends_content {
            uploads::status(uploads, uid).await?.into_response()
        } else {
            StatusCode::NO_CONTENT.into_response()
        };
        if self.prescribes_statuses() {
            *response.status_mut() = StatusCode::CREATED;
        }
        self.insert_completeness(response.headers_mut(), ends_content);
        Ok(response)
    }

    /// Renders the response to a question for the offset, without the offset itself.
    pub(crate) fn render_offset(self, offset: &UploadOffset, limits: UploadLimits) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(size) = offset.size {
            insert(headers, LENGTH, &size);
        }
        self.insert_completeness(headers, offset.is_complete);
        self.insert_limits(headers, limits);
        response
    }
}

/// Adds the limits that apply to all uploads.
pub(crate) fn describe_limits(headers: &mut HeaderMap, max_size: u64) {
    insert(headers, LIMIT, &format_max_size(max_size));
}

pub(super) fn format_max_size(max_size: u64) -> String {
    format!("max-size={}", max_size.min(MAX_INTEGER))
}

fn boolean(value: bool) -> &'static str {
    if value { "?1" } else { "?0" }
}
