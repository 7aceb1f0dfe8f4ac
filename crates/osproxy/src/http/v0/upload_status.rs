use std::{str::FromStr, sync::Arc};

use axum::{Json, extract::State, http::Uri};
use osproxy_api::{
    schema,
    v0::{Envelope, PREFIX},
};

use super::query::Query;
use crate::{Error, Result, app::App, http::openapi, ops, uid::Uid};

/// `GET /checkpoint`. As in the Go program, it takes no signature: numbers are all that it tells.
#[utoipa::path(
    get, path = "/checkpoint", context_path = PREFIX, tag = "v0 Uploads",
    summary = "Which parts have arrived", description = "",
    params(("uid" = schema::Uid, Query, description = "The file's uid.", example = "1548722401845518336")),
    responses(
        (status = 200, description = "The numbers of the parts that have arrived, ascending.", body = Envelope<Vec<u32>>, example = json!({"code": 0, "message": "ok", "data": [1, 2, 4]})),
        (status = 404, response = openapi::NotFound),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
    )
)]
pub(in crate::http) async fn upload_status(
    State(app): State<Arc<App>>,
    uri: Uri,
) -> Result<Json<Envelope<Vec<u32>>>> {
    let query = Query::parse(uri.query());
    let uid = Uid::from_str(query.get("uid")).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(Json(Envelope::ok(ops::upload_status::upload_status(&app, uid).await?.parts)))
}
