//! Upload grants: applications create them, and pass their links to web pages and apps.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use osproxy_api::{
    schema,
    v1::{CreateUploadGrantRequest, PREFIX, UploadGrant, UploadGrantState, UploadGrants},
};
use osproxy_core::{
    Caller,
    auth::{self, GrantRefusal},
    grant_links,
    links::Links,
    ops::{self, UploadOps},
};
use osproxy_types::{scope::Scope, uid::Uid};
use time::OffsetDateTime;

use super::{
    json, pagination,
    path::{self, PathResult},
    query::Query,
    time_format::format_time,
};
use crate::{
    extract::auth::{Authenticated, Upload},
    openapi,
    respond::error::HandlerResult,
};

/// `POST /upload-grants`
#[utoipa::path(
    post, path = "/upload-grants", context_path = PREFIX, tag = "Uploads", operation_id = "v1_create_upload_grant",
    summary = "Create an upload grant", description = "Pass a link of the grant to a web page or an app, which then creates uploads without an API key.",
    request_body(content = CreateUploadGrantRequest),
    security(("api_key" = ["upload"])),
    responses(
        (status = 201, description = "The grant.", body = UploadGrant, headers(("location" = String, description = "URL of the grant."))),
        openapi::CommonErrors,
        openapi::JsonBodyErrors,
        openapi::StorageErrors,
    )
)]
pub(crate) async fn create_upload_grant(
    State(uploads): State<Arc<UploadOps>>,
    State(links): State<Arc<Links>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, body) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    let wanted: CreateUploadGrantRequest = json::parse(&json::read(&request.headers, body).await?)?;
    let grant = ops::create_upload_grant::create_upload_grant(&uploads, &caller, wanted).await?;
    let location = [(header::LOCATION, format!("{PREFIX}/upload-grants/{}", grant.record.id))];
    Ok((StatusCode::CREATED, location, Json(render(&links, &caller, grant))).into_response())
}

/// `GET /upload-grants`
#[utoipa::path(
    get, path = "/upload-grants", context_path = PREFIX, tag = "Uploads", operation_id = "v1_list_upload_grants",
    summary = "List upload grants", description = "Includes expired and revoked grants, until 30 days after their expiry.",
    params(openapi::PageQuery),
    security(("api_key" = ["upload"])),
    responses(
        (status = 200, description = "A page of grants, newest first.", body = UploadGrants),
        openapi::CommonErrors,
    )
)]
pub(crate) async fn list_upload_grants(
    State(uploads): State<Arc<UploadOps>>,
    State(links): State<Arc<Links>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    uri: Uri,
) -> HandlerResult<Json<UploadGrants>> {
    let query = Query::parse(uri.query(), &["limit", "cursor"])?;
    let limit = pagination::limit(&query)?;
    let filters = ["upload grants", caller.tenant.as_str()];
    let before = pagination::parse_cursor(&links, &filters, &query)?.map(Uid::from_db);
    let page = ops::list_upload_grants::list_upload_grants(&uploads, &caller.tenant, before, limit).await?;
    Ok(Json(UploadGrants {
        grants: page.grants.into_iter().map(|grant| render(&links, &caller, grant)).collect(),
        next_cursor: page.next.map(|next| links.sign_cursor(&filters, &next.get())).transpose()?,
    }))
}

/// `GET /upload-grants/{id}`
#[utoipa::path(
    get, path = "/upload-grants/{id}", context_path = PREFIX, tag = "Uploads", operation_id = "v1_describe_upload_grant",
    summary = "Describe an upload grant", description = "`GET /files?grant={id}` lists its files.",
    params(
        ("id" = schema::Uid, Path, description = "Id of the grant.", example = "1548722401845518336"),
    ),
    security(("api_key" = ["upload"])),
    responses(
        (status = 200, description = "The grant.", body = UploadGrant),
        openapi::CommonErrors,
        (status = 404, response = openapi::Missing),
    )
)]
pub(crate) async fn describe_upload_grant(
    State(uploads): State<Arc<UploadOps>>,
    State(links): State<Arc<Links>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    id: PathResult<String>,
    uri: Uri,
) -> HandlerResult<Json<UploadGrant>> {
    Query::parse(uri.query(), &[])?;
    let id = path::grant_id(id)?;
    let grant = ops::describe_upload_grant::describe_upload_grant(&uploads, &caller.tenant, id).await?;
    Ok(Json(render(&links, &caller, grant)))
}

/// `DELETE /upload-grants/{id}`
#[utoipa::path(
    delete, path = "/upload-grants/{id}", context_path = PREFIX, tag = "Uploads", operation_id = "v1_revoke_upload_grant",
    summary = "Revoke an upload grant", description = "From now on, the grant allows no new uploads. The upload links that were issued under it are revoked too, within four seconds. Its files stay.",
    params(
        ("id" = schema::Uid, Path, description = "Id of the grant.", example = "1548722401845518336"),
    ),
    security(("api_key" = ["upload"])),
    responses(
        (status = 204, description = "The grant is revoked."),
        openapi::CommonErrors,
        (status = 404, response = openapi::Missing),
    )
)]
pub(crate) async fn revoke_upload_grant(
    State(uploads): State<Arc<UploadOps>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    id: PathResult<String>,
    uri: Uri,
) -> HandlerResult<StatusCode> {
    Query::parse(uri.query(), &[])?;
    let id = path::grant_id(id)?;
    ops::revoke_upload_grant::revoke_upload_grant(&uploads, &caller.tenant, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The links and the metadata are only for the key that created the grant, and for the scopes that
/// include them: other keys may have other limits.
fn render(links: &Links, caller: &Caller, grant: auth::UploadGrant) -> UploadGrant {
    let auth::UploadGrant { record, terms } = grant;
    let is_creator = caller.key == record.api_key;
    let shows_links = is_creator || caller.has_scope(Scope::Admin);
    let shows_metadata = is_creator || caller.has_scope(Scope::Read);
    let now = OffsetDateTime::now_utc().unix_timestamp().saturating_mul(1000);
    let state = match record.ended(now) {
        Some(GrantRefusal::Revoked) => UploadGrantState::Revoked,
        Some(GrantRefusal::Expired) => UploadGrantState::Expired,
        Some(GrantRefusal::UsedUp) => UploadGrantState::UsedUp,
        None => UploadGrantState::Active,
    };
    UploadGrant {
        id: record.id.to_string(),
        state,
        links: (state == UploadGrantState::Active && shows_links).then(|| grant_links(&links.keys, &record)),
        uploads: record.uploads,
        created_at: format_time(record.created_at),
        expires_at: format_time(record.expires_at),
        revoked_at: record.revoked_at.map(format_time),
        max_uploads: record.max_uploads,
        max_size: terms.max_size,
        content_types: terms.content_types,
        networks: terms.networks.iter().map(ToString::to_string).collect(),
        name_prefix: terms.name_prefix,
        metadata: shows_metadata.then_some(terms.metadata),
    }
}
