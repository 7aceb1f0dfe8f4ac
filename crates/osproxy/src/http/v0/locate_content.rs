use std::{str::FromStr, sync::Arc};

use axum::{Json, extract::State, http::Uri};
use osproxy_api::v0::Envelope;

use super::query::Query;
use crate::{Error, Result, app::App, ops, uid::Uid};

/// `GET /proxy`: the address of this node, if it holds bytes of the uid that no other has.
pub(in crate::http) async fn locate_content(
    State(app): State<Arc<App>>,
    uri: Uri,
) -> Result<Json<Envelope<String>>> {
    let query = Query::parse(uri.query());
    let uid = Uid::from_str(query.get("uid")).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(Json(Envelope::ok(ops::locate_content::locate_content(&app, uid).await?.to_owned())))
}
