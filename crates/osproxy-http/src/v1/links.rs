//! Download links of a file, and their revocation.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::Response,
};
use osproxy_api::v1::{
    CreateLinkRequest, CreateLinksRequest, CreatedLink, CreatedLinks, Disposition, FileLink, PREFIX,
};
use osproxy_core::{
    Caller, Error, IdempotencyKeys, Result, download_constraints,
    links::Links,
    ops::{self, FileOps, LinkConstraints, create_link::DownloadLinkSpec},
};
use osproxy_types::uid::Uid;

use super::{
    idempotency::{CreatedResponse, run_idempotent},
    json,
    path::{self, PathResult},
    query::Query,
    time_format::format_time,
};
use crate::{
    extract::auth::{Authenticated, Delete, Read},
    openapi,
    respond::error::HandlerResult,
};

/// Maximum number of links that one request creates.
const MAX_LINKS: usize = 100;

/// `POST /files/{uid}/links`
#[utoipa::path(
    post, path = "/files/{uid}/links", context_path = PREFIX, tag = "Files", operation_id = "v1_create_link",
    summary = "Create a download link", description = "",
    params(
        openapi::UidPath,
        openapi::IdempotencyKey,
    ),
    request_body(content = CreateLinkRequest),
    security(("api_key" = ["read"])),
    responses(
        (status = 201, description = "The link.", body = CreatedLink, headers(("idempotency-replayed" = String, description = "`true` if this is the recorded response to an earlier request with the same key."))),
        openapi::CommonErrors,
        openapi::FileErrors,
        openapi::JsonBodyErrors,
        openapi::IdempotencyErrors,
    )
)]
pub(crate) async fn create_link(
    State(files): State<Arc<FileOps>>,
    State(links): State<Arc<Links>>,
    State(keys): State<Arc<IdempotencyKeys>>,
    Authenticated { caller, .. }: Authenticated<Read>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Response> {
    let uid = path::uid(uid)?;
    let (request, body) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    let body = json::read(&request.headers, body).await?;
    let link: CreateLinkRequest = json::parse(&body)?;
    // Links are not stored, so the operation does not need the uid in the key.
    run_idempotent(&keys, &caller, &request, &body, |_| {
        new_link(files.clone(), links.clone(), caller.clone(), uid, link)
    })
    .await
}

async fn new_link(
    files: Arc<FileOps>,
    links: Arc<Links>,
    caller: Caller,
    uid: Uid,
    request: CreateLinkRequest,
) -> Result<CreatedResponse> {
    let constraints = download_constraints(&caller, &request)?;
    let CreateLinkRequest { expires_in, disposition, filename, .. } = request;
    let name = filename.as_deref();
    let link = ops::create_link::create_link(&files, &caller.tenant, uid, expires_in, name).await?;
    CreatedResponse::new(None, &render_link(&links, uid, &link, disposition, &constraints))
}

fn render_link(
    links: &Links,
    uid: Uid,
    link: &DownloadLinkSpec,
    disposition: Disposition,
    constraints: &LinkConstraints,
) -> CreatedLink {
    let url = links.download_link(uid, &link.filename, link.period, disposition, constraints);
    let expires_at = format_time(link.period.expires_at_secs().saturating_mul(1000));
    CreatedLink { url, expires_at }
}

/// `POST /links`
#[utoipa::path(
    post, path = "/links", context_path = PREFIX, tag = "Files", operation_id = "v1_create_links",
    summary = "Create download links of several files", description = "For up to 100 files, such as those of a page. A file that cannot be downloaded has an error code instead of a link.",
    request_body(content = CreateLinksRequest),
    security(("api_key" = ["read"])),
    responses(
        (status = 201, description = "The links, in the order of the uids.", body = CreatedLinks),
        openapi::CommonErrors,
        openapi::JsonBodyErrors,
    )
)]
pub(crate) async fn create_links(
    State(files): State<Arc<FileOps>>,
    State(links): State<Arc<Links>>,
    Authenticated { caller, .. }: Authenticated<Read>,
    request: Request,
) -> HandlerResult<(StatusCode, Json<CreatedLinks>)> {
    let (request, body) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    let CreateLinksRequest { uids, expires_in, disposition, networks, max_uses } =
        json::parse(&json::read(&request.headers, body).await?)?;
    if !(1..=MAX_LINKS).contains(&uids.len()) {
        let message = format!("`uids` must have 1 to {MAX_LINKS} entries");
        return Err(Error::invalid(message).with_field("uids").into());
    }
    let parse = |uid: &String| path::parse_uid(uid).map_err(|error| error.with_field("uids"));
    let uids: Vec<Uid> = uids.iter().map(parse).collect::<Result<_>>()?;
    let wanted = CreateLinkRequest { expires_in, disposition, filename: None, networks, max_uses };
    download_constraints(&caller, &wanted)?;
    let specs = ops::create_link::create_links(&files, &caller.tenant, &uids, expires_in).await?;
    let render = |(uid, spec): (Uid, Result<DownloadLinkSpec>)| {
        let uid_text = uid.to_string();
        Ok(match spec {
            Ok(spec) => {
                // Creates a new counter of uses.
                let constraints = download_constraints(&caller, &wanted)?;
                let CreatedLink { url, expires_at } =
                    render_link(&links, uid, &spec, disposition, &constraints);
                FileLink { uid: uid_text, url: Some(url), expires_at: Some(expires_at), error: None }
            }
            Err(error) => {
                FileLink { uid: uid_text, error: Some(error.code.as_str().to_owned()), ..FileLink::default() }
            }
        })
    };
    let links = uids.into_iter().zip(specs).map(render).collect::<Result<_>>()?;
    Ok((StatusCode::CREATED, Json(CreatedLinks { links })))
}

/// `DELETE /files/{uid}/links`
#[utoipa::path(
    delete, path = "/files/{uid}/links", context_path = PREFIX, tag = "Files", operation_id = "v1_revoke_links",
    summary = "Revoke the links of a file", description = "Revokes all upload and download links that were issued so far.",
    params(openapi::UidPath),
    security(("api_key" = ["delete"])),
    responses(
        (status = 204, description = "The links are revoked."),
        openapi::CommonErrors,
        openapi::FileErrors,
        (status = 415, response = openapi::UnsupportedType),
    )
)]
pub(crate) async fn revoke_links(
    State(files): State<Arc<FileOps>>,
    Authenticated { caller, .. }: Authenticated<Delete>,
    uid: PathResult<String>,
    uri: Uri,
) -> HandlerResult<StatusCode> {
    Query::parse(uri.query(), &[])?;
    ops::revoke_links::revoke_links(&files, &caller.tenant, path::uid(uid)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
