use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use osproxy_api::v0::Envelope;

use super::query::Query;
use crate::{
    Result,
    app::App,
    link::Action,
    ops::{self, complete_upload::Completion},
};

/// `PUT /upload/merge`
pub(in crate::http) async fn complete_upload(
    State(app): State<Arc<App>>,
    uri: Uri,
) -> Result<Json<Envelope<&'static str>>> {
    let query = Query::parse(uri.query());
    let uid = query.verified_uid(&app, Action::Upload, &[])?;
    let said = Completion { parts: query.number("num")?, size: query.number("size")?, md5: query.md5()? };
    ops::complete_upload::complete_upload(&app, uid, said).await?;
    Ok(Json(Envelope::ok("")))
}
