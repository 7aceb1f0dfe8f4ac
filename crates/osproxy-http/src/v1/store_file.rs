//! A file that is created and stored in one request, for applications that have the content.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use osproxy_api::{
    nullable,
    schema::{ClientPath, Content},
    v1::{CopiedFile, FileUid, PREFIX},
};
use osproxy_core::{
    Error, IdempotencyKeys, IdempotencyOutcome, RecordedAnswer, Result,
    ops::{
        self, UploadOps, UploadOptions,
        create_upload::{AnnouncedContent, FileMetadata, UploadRequest},
        store_file::StoredUpload,
    },
};
use osproxy_types::error_chain;

use super::{digest, idempotency, query::Query, reject_form::reject_form, render};
use crate::{
    extract::{
        auth::{Authenticated, Upload},
        body,
    },
    openapi,
    respond::error::HandlerResult,
};

/// MIME types that clients send if they do not know the type of the content. The second is the
/// default of curl.
const DEFAULT_TYPES: [&str; 2] = ["application/octet-stream", "application/x-www-form-urlencoded"];

/// `POST /files`: the body is the content.
#[utoipa::path(
    post, path = "/files", context_path = PREFIX, tag = "Files", operation_id = "v1_store_file",
    summary = "Store a file", description = "Creates a file and stores its content in one request. For applications that have the content themselves. To let clients send the content, create an upload instead.",
    params(
        ("name" = ClientPath, Query, description = "Name of the file, 1 to 1,024 bytes. If it is a path, its last component is used.", example = "report.pdf"),
        ("metadata" = Option<String>, Query, description = "Metadata of the file, as a JSON object of strings.", example = "{\"case\":\"17\"}"),
        openapi::IdempotencyKey,
        openapi::DigestHeaders,
    ),
    request_body(content = Content, content_type = "application/octet-stream", description = "The raw content. Its `Content-Type` becomes the MIME type of the file; without one, or with `application/octet-stream`, the type is detected."),
    security(("api_key" = ["upload"])),
    responses(
        (status = 201, description = "The file is durably stored. Without the scope `read`, only its uid.", body = CopiedFile, headers(("location" = String, description = "URL of the new file."), ("idempotency-replayed" = String, description = "`true` if this is the recorded response to an earlier request with the same key."))),
        openapi::CommonErrors,
        openapi::FileErrors,
        openapi::ContentBodyErrors,
        openapi::IdempotencyErrors,
        openapi::StorageErrors,
    )
)]
pub(crate) async fn store_file(
    State(uploads): State<Arc<UploadOps>>,
    State(keys): State<Arc<IdempotencyKeys>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, content) = request.into_parts();
    let query = Query::parse(request.uri.query(), &["name", "metadata"])?;
    reject_form(&request.headers)?;
    let wanted = upload_request(&query, &request.headers)?;
    let (size, content) = body::into_content(content);
    let Some(key) = idempotency::key(&request.headers)? else {
        let stored = ops::store_file::store_file(&uploads, &caller, wanted, size, content, None).await?;
        return Ok(idempotency::render(answer(stored)?));
    };
    // The content and its digests are not part of the hash. A repeated request must have the same
    // content, which is compared below.
    let content_type = request.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    match keys.acquire(&caller, key, idempotency::hash_request(&request, content_type)).await? {
        IdempotencyOutcome::Held(key) => {
            let held = Some(key.clone());
            let stored = ops::store_file::store_file(&uploads, &caller, wanted, size, content, held).await?;
            let answer = answer(stored)?;
            if let Err(error) = keys.record_answer(key, answer.clone()).await {
                let error = error_chain(&error);
                tracing::warn!(error, "cannot record the answer to an idempotent request");
            }
            Ok(idempotency::render(answer))
        }
        IdempotencyOutcome::Answered(recorded) => {
            let location = recorded.location.as_deref().unwrap_or_default();
            let uid = location.rsplit('/').next().and_then(|uid| uid.parse().ok());
            let uid = uid.ok_or_else(|| Error::internal("a recorded answer has no location"))?;
            let options = UploadOptions {
                expected: digest::from_headers(&request.headers)?,
                constraints: caller.upload_constraints(),
                ..UploadOptions::default()
            };
            ops::upload_file::upload_file(&uploads, uid, options, size, content).await?;
            Ok(idempotency::render_replayed(recorded))
        }
    }
}

fn upload_request(query: &Query<'_>, headers: &HeaderMap) -> Result<UploadRequest> {
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let announced = AnnouncedContent {
        // Not announced: the content does not arrive in parts, so no space is reserved for parts.
        size: None,
        part_size: None,
        content_type: content_type.filter(|given| is_known(given)).map(str::to_owned),
        expected: digest::from_headers(headers)?,
        metadata: query.get("metadata").map(parse_metadata).transpose()?.unwrap_or_default(),
        is_partial: false,
        object: None,
    };
    Ok(UploadRequest { path: query.required("name")?.to_owned(), announced, arrives_in_order: false })
}

/// Whether a client states the type of the content. Some clients send a default.
fn is_known(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    !essence.is_empty() && !DEFAULT_TYPES.iter().any(|default| essence.eq_ignore_ascii_case(default))
}

fn parse_metadata(text: &str) -> Result<FileMetadata> {
    let mut input = serde_json::Deserializer::from_str(text);
    let metadata = nullable::map(&mut input).and_then(|metadata| input.end().map(|()| metadata));
    metadata.map_err(|error| {
        let message = format!("`metadata` must be a JSON object of strings: {error}");
        Error::invalid(message).with_field("metadata")
    })
}

/// The response for a stored file.
fn answer(stored: StoredUpload) -> Result<RecordedAnswer> {
    let StoredUpload { uid, record, .. } = stored;
    let body = match record {
        Some(record) => CopiedFile::Known(Box::new(render::file(*record, None))),
        None => CopiedFile::Unread(FileUid { uid: uid.to_string() }),
    };
    Ok(RecordedAnswer {
        status: StatusCode::CREATED.as_u16(),
        location: Some(format!("{PREFIX}/files/{uid}")),
        body: serde_json::to_string(&body).map_err(Error::internal)?,
    })
}
