use std::{ops::Range, sync::Arc};

use axum::{
    extract::{Request, State},
    response::Response,
};
use osproxy_api::v1::{self, ByteRange, CreateUploadRequest, CreatedState, CreatedUpload, PREFIX};
use time::OffsetDateTime;

use super::{
    digest,
    idempotency::{Created, once},
    json,
    moment::moment,
    query::Query,
    terms, upload_link,
};
use crate::{
    Error, Result,
    app::{App, Caller},
    http::{
        auth::{By, Upload},
        openapi,
    },
    ops::{
        self, Terms,
        create_upload::{Announced, Challenge, Wish},
    },
    uid::Uid,
};

/// Longest MIME type, in bytes.
const MAX_TYPE: usize = 255;

/// `POST /uploads`
#[utoipa::path(
    post, path = "/uploads", context_path = PREFIX, tag = "Uploads", operation_id = "v1_create_upload",
    summary = "Begin an upload", description = "The links go to the client that has the content. Content that is known by its digests need not be sent.",
    params(
        openapi::IdempotencyKey,
    ),
    request_body(content = CreateUploadRequest),
    security(("api_key" = ["upload"])),
    responses(
        (status = 201, description = "It is made.", body = CreatedUpload, headers(("location" = String, description = "Where it is described."), ("idempotency-replayed" = String, description = "`true` where the answer is that of an earlier request with the same key."))),
        openapi::Failures,
        openapi::OfBody,
        openapi::OfKey,
        openapi::OfRoom,
    )
)]
pub(in crate::http) async fn create_upload(
    State(app): State<Arc<App>>,
    By { caller, .. }: By<Upload>,
    request: Request,
) -> Result<Response> {
    let (request, body) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    let body = json::read(&request.headers, body).await?;
    let wanted: CreateUploadRequest = json::parse(&body)?;
    let tenant = caller.tenant.clone();
    once(&app, &tenant, &request, &body, create(app.clone(), caller, wanted)).await
}

async fn create(app: Arc<App>, caller: Caller, mut request: CreateUploadRequest) -> Result<Created> {
    let expire = request.expires_in;
    let terms = terms::of_upload(&caller, request.size, request.constraints.take())?;
    let wish = wish(request)?;
    let created = ops::create_upload::create_upload(&app, &caller, vec![wish], expire).await?;
    let date = (created.created_at, expire);
    let missing = || Error::internal("an upload was not created");
    let upload = created.uploads.into_iter().next().ok_or_else(missing)?;
    let is_pending = !upload.is_stored;
    // A link is dated in whole seconds.
    let expires_at = created.created_at.unix_timestamp().saturating_add(expire).saturating_mul(1000);
    let answer = CreatedUpload {
        uid: upload.uid.to_string(),
        state: if is_pending { CreatedState::Pending } else { CreatedState::Stored },
        part_size: upload.part_size.filter(|_| is_pending),
        links: is_pending.then(|| upload_link::links(&app, upload.uid, date, &terms)),
        expires_at: is_pending.then(|| moment(expires_at)),
        challenge: upload.challenge.map(|challenge| render(&app, upload.uid, date, &terms, challenge)),
    };
    Created::new(Some(format!("{PREFIX}/files/{}", upload.uid)), &answer)
}

/// What the client is asked, and where it answers.
fn render(
    app: &App,
    uid: Uid,
    date: (OffsetDateTime, i64),
    terms: &Terms,
    challenge: Challenge,
) -> v1::Challenge {
    let range = |range: Range<u64>| ByteRange { offset: range.start, length: range.end - range.start };
    v1::Challenge {
        key: hex::encode(challenge.nonce),
        ranges: challenge.ranges.into_iter().map(range).collect(),
        link: upload_link::proof(app, uid, date, terms),
        expires_at: moment(challenge.expires_at),
    }
}

fn wish(request: CreateUploadRequest) -> Result<Wish> {
    let claims = digest::of_fields(request.md5.as_ref(), request.sha256.as_ref(), request.blake3.as_ref())?;
    if request.content_type.as_deref().is_some_and(|given| !is_mime_type(given)) {
        let message = format!("`content_type` must be a MIME type of at most {MAX_TYPE} bytes");
        return Err(Error::invalid(message).with_field("content_type"));
    }
    let announced = Announced {
        size: request.size,
        part_size: request.part_size,
        content_type: request.content_type,
        claims,
        metadata: request.metadata,
    };
    Ok(Wish { path: request.name, announced })
}

/// Whether a text can stand as the type of content: it goes into a header as it is.
fn is_mime_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let is_token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    let has_form = essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
    has_form && text.len() <= MAX_TYPE && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mime_types_are_taken() {
        for good in ["text/plain", "text/plain; charset=utf-8", "application/vnd.api+json"] {
            assert!(is_mime_type(good), "{good}");
        }
        for bad in ["", "text", "text/", "/plain", "a b/c", "text/plain\r\nx: y", "text/plain; a=\u{e9}"] {
            assert!(!is_mime_type(bad), "{bad:?}");
        }
    }
}
