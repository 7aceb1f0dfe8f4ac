//! Upload sessions. Applications create them; the clients of applications use them by signed link.

use std::{collections::HashSet, str::FromStr, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use osproxy_api::{
    schema::{self, Md5},
    v0::{
        CreateUploadRequest, Envelope, InstantUploadRequest, InstantUploadResult, MAX_UPLOADS,
        MultiUploadUrls, PREFIX, UploadLinks, UploadUrls,
    },
};
use osproxy_cluster::Forwarder;
use osproxy_core::{
    Authenticator, Error,
    links::{LinkAction, LinkPeriod, Links, ValidLink},
    ops::{
        self, UploadOps,
        complete_upload::{CompleteRequest, ExpectedDigests},
        create_upload::{AnnouncedContent, NewUploadSession, UploadRequest},
        instant_upload::InstantItem,
    },
};
use osproxy_types::{scope::Scope, uid::Uid};

use super::{
    json,
    query::{self, LenientQuery},
};
use crate::{
    extract::{
        auth::{self, Authenticated, Upload},
        link::LinkVerifier,
    },
    forward::{self, RequestSource},
    openapi,
    respond::error::HandlerResult,
};

/// `POST /link/upload`
#[utoipa::path(
    post, path = "/link/upload", context_path = PREFIX, tag = "v0 Links",
    summary = "Issue upload links", description = "",
    request_body = CreateUploadRequest,
    security(("api_key" = ["upload"])),
    responses(
        (status = 200, description = "One entry for each path, in the same order.", body = Envelope<Vec<UploadLinks>>),
        (status = 413, response = openapi::TooLarge),
        (status = 408, response = openapi::Interrupted),
        (status = 415, response = openapi::Encoded),
        (status = 501, response = openapi::Coded),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
    )
)]
pub(crate) async fn create_upload(
    State(uploads): State<Arc<UploadOps>>,
    State(links): State<Arc<Links>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    body: Body,
) -> HandlerResult<Json<Envelope<Vec<UploadLinks>>>> {
    let CreateUploadRequest { file_path: mut paths, expire } = json::parse(body).await?;
    if !(1..=MAX_UPLOADS).contains(&paths.len()) {
        return Err(Error::invalid(format!("`filePath` must have 1 to {MAX_UPLOADS} entries")).into());
    }
    let mut seen = HashSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    let wish = |path: &String| UploadRequest {
        path: path.clone(),
        announced: AnnouncedContent::default(),
        arrives_in_order: false,
    };
    let wishes = paths.iter().map(wish).collect();
    let created = ops::create_upload::create_upload(&uploads, &caller, wishes, expire, None).await?;
    let terms = caller.upload_constraints();
    let period = LinkPeriod { date: created.created_at, lifetime_secs: expire };
    let links = created.uploads.into_iter().zip(paths).map(|(NewUploadSession { uid, .. }, path)| {
        let query = query::signed_query(&links.keys, LinkAction::Upload, uid, period, &[], &terms);
        UploadLinks {
            uid: uid.to_string(),
            path,
            url: UploadUrls {
                single: query::relative_url("/upload", &query),
                multi: MultiUploadUrls {
                    upload: query::relative_url("/upload/multi", &query),
                    merge: query::relative_url("/upload/merge", &query),
                },
            },
        }
    });
    Ok(Json(Envelope::ok(links.collect())))
}

/// `POST /resume`
#[utoipa::path(
    post, path = "/resume", context_path = PREFIX, tag = "v0 Links",
    summary = "Create files from stored content", description = "",
    request_body = InstantUploadRequest,
    security(("api_key" = ["upload"])),
    responses(
        (
            status = 200,
            description = "One entry for each digest, in the same order. `uid` is empty if the content is not stored and must be sent.",
            body = Envelope<Vec<InstantUploadResult>>
        ),
        (status = 413, response = openapi::TooLarge),
        (status = 408, response = openapi::Interrupted),
        (status = 415, response = openapi::Encoded),
        (status = 501, response = openapi::Coded),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
        (status = 507, response = openapi::Full),
    )
)]
pub(crate) async fn instant_upload(
    State(uploads): State<Arc<UploadOps>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    body: Body,
) -> HandlerResult<Json<Envelope<Vec<InstantUploadResult>>>> {
    let InstantUploadRequest { data } = json::parse(body).await?;
    if !(1..=MAX_UPLOADS).contains(&data.len()) {
        return Err(Error::invalid(format!("`data` must have 1 to {MAX_UPLOADS} entries")).into());
    }
    let mut wanted = Vec::with_capacity(data.len());
    for item in &data {
        let md5 = query::md5(&item.md5)?;
        wanted.push(InstantItem { md5, path: &item.path });
    }
    let uids = ops::instant_upload::instant_upload(&uploads, &caller, &wanted).await?;
    let results = data.into_iter().zip(uids).map(|(item, uid)| InstantUploadResult {
        md5: item.md5,
        uid: uid.map(|uid| uid.to_string()).unwrap_or_default(),
    });
    Ok(Json(Envelope::ok(results.collect())))
}

/// `GET /checkpoint`. Clients of the Go program send only the uid, which is enough with
/// `auth.mode: open`. Otherwise the request needs an API key, or the other parameters of the upload
/// link.
#[utoipa::path(
    get, path = "/checkpoint", context_path = PREFIX, tag = "v0 Uploads",
    summary = "List the received parts", description = "Requires an API key, or the parameters of an upload link.",
    params(
        ("uid" = schema::Uid, Query, description = "Uid of the file.", example = "1548722401845518336"),
        ("date" = Option<String>, Query, description = "`date` of the upload link; required without an API key."),
        ("expire" = Option<String>, Query, description = "`expire` of the upload link; required without an API key."),
        ("signature" = Option<String>, Query, description = "`signature` of the upload link; required without an API key."),
    ),
    security((), ("api_key" = ["upload"])),
    responses(
        (status = 200, description = "Numbers of the received parts, in ascending order.", body = Envelope<Vec<u32>>, example = json!({"code": 0, "message": "ok", "data": [1, 2, 4]})),
        (status = 404, response = openapi::NotFound),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
    )
)]
pub(crate) async fn upload_status(
    State(uploads): State<Arc<UploadOps>>,
    State(verifier): State<LinkVerifier>,
    State(authenticator): State<Arc<Authenticator>>,
    request: Request,
) -> HandlerResult<Json<Envelope<Vec<u32>>>> {
    let (request, _) = request.into_parts();
    let query = LenientQuery::parse(request.uri.query());
    let uid = Uid::from_str(query.get("uid")).map_err(|error| Error::invalid(error.to_string()))?;
    let status = if query.get("signature").is_empty() {
        let caller = auth::authenticate(&authenticator, &request).await?;
        caller.require_scope(Scope::Upload)?;
        ops::upload_status::own_upload_status(&uploads, &caller.tenant, uid).await?
    } else {
        query.verify_link(&verifier, &request, LinkAction::Upload, &[]).await?;
        ops::upload_status::upload_status(&uploads, uid).await?
    };
    Ok(Json(Envelope::ok(status.parts)))
}

/// `PUT /upload/merge`
#[utoipa::path(
    put, path = "/upload/merge", context_path = PREFIX, tag = "v0 Uploads",
    summary = "Complete an upload in parts", description = "",
    params(
        openapi::UploadLinkQuery,
        ("num" = u32, Query, minimum = 1, maximum = 10_000, description = "Number of parts.", example = 5),
        ("size" = u64, Query, description = "Size of all parts together, in bytes.", example = 41_943_040),
        ("md5" = Option<Md5>, Query, description = "Expected MD5 of the whole content. A mismatch makes the request fail. Content larger than `uploads.max_inline_verification_size` is verified by a task afterwards; on a mismatch the file becomes corrupt."),
    ),
    responses(
        (status = 200, description = "The file can be read. Repeating the request has no effect.", body = Envelope<String>, example = json!({"code": 0, "message": "ok", "data": ""})),
        (status = 403, response = openapi::Forbidden),
        (status = 404, response = openapi::NotFound),
        (status = 413, response = openapi::TooLarge),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
        (status = 507, response = openapi::Full),
    )
)]
pub(crate) async fn complete_upload(
    State(uploads): State<Arc<UploadOps>>,
    State(verifier): State<LinkVerifier>,
    State(forwarder): State<Forwarder>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, _) = request.into_parts();
    let query = LenientQuery::parse(request.uri.query());
    let (uid, ValidLink { constraints, .. }) =
        query.verify_link(&verifier, &request, LinkAction::Upload, &[]).await?;
    let (parts, size) = (query.number("num")?, query.number("size")?);
    let expected = CompleteRequest {
        parts: Some(parts),
        size: Some(size),
        expected: ExpectedDigests::md5_only(query.parse_md5()?),
    };
    // Only the node that has the parts can complete the upload.
    if forward::request_source(&forwarder, &request)? == RequestSource::Client
        && let Some(store) = ops::choose_part_node::parts_elsewhere(&uploads, uid).await?
    {
        return Ok(forward::forward_without_body(&forwarder, RequestSource::Client, &store, &request).await?);
    }
    ops::complete_upload::complete_upload(&uploads, uid, expected, &constraints).await?;
    Ok(Json(Envelope::ok("")).into_response())
}
