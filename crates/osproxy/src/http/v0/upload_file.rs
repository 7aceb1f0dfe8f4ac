use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, Uri},
};
use osproxy_api::v0::Envelope;

use super::{body, query::Query};
use crate::{
    Result,
    app::App,
    link::Action,
    ops::{
        self,
        upload_file::{Claims, Wanted},
    },
};

/// `PUT /upload`: the field `file` of a form, or the body as it is.
pub(in crate::http) async fn upload_file(
    State(app): State<Arc<App>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Envelope<&'static str>>> {
    let query = Query::parse(uri.query());
    let uid = query.verified_uid(&app, Action::Upload, &[])?;
    let md5 = query.md5()?;
    let (size, content) = body::content(&headers, body, md5).await?;
    let claims = Claims::of_md5(md5);
    ops::upload_file::upload_file(&app, uid, claims, Wanted::MD5, size, content).await?;
    Ok(Json(Envelope::ok("")))
}
