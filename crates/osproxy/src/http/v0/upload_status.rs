use std::{str::FromStr, sync::Arc};

use axum::{Json, extract::State, http::Uri};
use osproxy_api::v0::Envelope;

use super::query::Query;
use crate::{Error, Result, app::App, ops, uid::Uid};

/// `GET /checkpoint`. As in the Go program, it takes no signature: numbers are all that it tells.
pub(in crate::http) async fn upload_status(
    State(app): State<Arc<App>>,
    uri: Uri,
) -> Result<Json<Envelope<Vec<u32>>>> {
    let query = Query::parse(uri.query());
    let uid = Uid::from_str(query.get("uid")).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(Json(Envelope::ok(ops::upload_status::upload_status(&app, uid).await?.parts)))
}
