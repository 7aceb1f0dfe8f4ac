use std::{str::FromStr, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
};
use osproxy_api::{
    schema,
    v0::{Envelope, PREFIX},
};
use osproxy_core::{App, Error, links::LinkAction, ops};
use osproxy_types::{scope::Scope, uid::Uid};

use super::query::LenientQuery;
use crate::{extract::auth, openapi, respond::error::HandlerResult};

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
    State(app): State<Arc<App>>,
    request: Request,
) -> HandlerResult<Json<Envelope<Vec<u32>>>> {
    let (request, _) = request.into_parts();
    let query = LenientQuery::parse(request.uri.query());
    let uid = Uid::from_str(query.get("uid")).map_err(|error| Error::invalid(error.to_string()))?;
    let status = if query.get("signature").is_empty() {
        let caller = auth::authenticate(&app, &request).await?;
        caller.require_scope(Scope::Upload)?;
        ops::upload_status::own_upload_status(&app, &caller.tenant, uid).await?
    } else {
        query.verify_link(&app, &request, LinkAction::Upload, &[]).await?;
        ops::upload_status::upload_status(&app, uid).await?
    };
    Ok(Json(Envelope::ok(status.parts)))
}
