use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, Uri},
};
use osproxy_api::v1::PREFIX;
use osproxy_core::{App, ops};

use super::{
    path::{self, PathResult},
    query::Query,
};
use crate::{
    extract::auth::{Authenticated, Delete},
    openapi,
    respond::error::HandlerResult,
};

/// `DELETE /files/{uid}/links`
#[utoipa::path(
    delete, path = "/files/{uid}/links", context_path = PREFIX, tag = "Files", operation_id = "v1_revoke_links",
    summary = "Revoke the links of a file", description = "Revokes all upload and download links that were issued so far.",
    params(openapi::UidPath),
    security(("api_key" = ["delete"])),
    responses(
        (status = 204, description = "The links are revoked."),
        openapi::Failures,
        openapi::OfFile,
        (status = 415, response = openapi::UnsupportedType),
    )
)]
pub(crate) async fn revoke_links(
    State(app): State<Arc<App>>,
    Authenticated { caller, .. }: Authenticated<Delete>,
    uid: PathResult<String>,
    uri: Uri,
) -> HandlerResult<StatusCode> {
    Query::parse(uri.query(), &[])?;
    ops::revoke_links::revoke_links(&app, &caller.tenant, path::uid(uid)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
