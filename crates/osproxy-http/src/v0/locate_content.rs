use std::{str::FromStr, sync::Arc};

use axum::{Json, extract::State, http::Uri};
use osproxy_api::{
    schema,
    v0::{Envelope, PREFIX},
};
use osproxy_core::{App, Error, ops};
use osproxy_types::uid::Uid;

use super::query::LenientQuery;
use crate::{
    extract::auth::{Admin, Authenticated},
    openapi,
    respond::error::HandlerResult,
};

/// `GET /proxy`: returns the address of this node if only this node has content of the uid.
#[utoipa::path(
    get, path = "/proxy", context_path = PREFIX, tag = "v0 Downloads",
    summary = "Check whether only this node has the content", description = "Fails with 404 if it has none, or if other nodes have it too.",
    params(("uid" = schema::Uid, Query, description = "Uid of the file.", example = "1548722401845518336")),
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "The address of this node.", body = Envelope<String>, example = json!({"code": 0, "message": "ok", "data": "10.0.0.7:8888"})),
        (status = 404, response = openapi::NotFound),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
    )
)]
pub(crate) async fn locate_content(
    State(app): State<Arc<App>>,
    _: Authenticated<Admin>,
    uri: Uri,
) -> HandlerResult<Json<Envelope<String>>> {
    let query = LenientQuery::parse(uri.query());
    let uid = Uid::from_str(query.get("uid")).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(Json(Envelope::ok(ops::locate_content::locate_content(&app, uid).await?.to_owned())))
}
