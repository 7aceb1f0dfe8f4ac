use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};
use osproxy_api::v1::UploadStatus;

use super::{
    content, digest,
    path::{self, InPath},
    upload_link, upload_status,
};
use crate::{
    Result,
    app::App,
    http::body,
    ops::{self, upload_file::Wanted},
};

/// `PUT /uploads/{uid}/content`: the whole content, as the body.
pub(in crate::http) async fn upload_file(
    State(app): State<Arc<App>>,
    uid: InPath<String>,
    request: Request,
) -> Result<Json<UploadStatus>> {
    let (request, content) = request.into_parts();
    let uid = upload_link::verified(&app, &path::parameters(uid)?, request.uri.query())?;
    content::must_be_raw(&request.headers)?;
    let claims = digest::of_headers(&request.headers)?;
    let (size, content) = body::raw(content);
    ops::upload_file::upload_file(&app, uid, claims, Wanted::default(), size, content).await?;
    upload_status::status(&app, uid).await
}
