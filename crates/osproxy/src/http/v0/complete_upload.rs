use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use osproxy_api::v0::Envelope;

use super::query::Query;
use crate::{
    Result,
    app::App,
    http::forward::{self, Origin},
    link::Action,
    ops::{
        self,
        complete_upload::{Claims, Completion},
    },
};

/// `PUT /upload/merge`
pub(in crate::http) async fn complete_upload(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response> {
    let (request, _) = request.into_parts();
    let query = Query::parse(request.uri.query());
    let uid = query.verified_uid(&app, Action::Upload, &[])?;
    let (parts, size) = (query.number("num")?, query.number("size")?);
    let said = Completion { parts: Some(parts), size: Some(size), claims: Claims::of_md5(query.md5()?) };
    // Nobody is told that a file can be read which cannot.
    if forward::origin(&app, &request)? == Origin::Client
        && let Some(store) = ops::locate_content::parts_elsewhere(&app, uid).await?
    {
        return forward::forward_head(&app, Origin::Client, &store, &request).await;
    }
    ops::complete_upload::complete_upload(&app, uid, said).await?;
    Ok(Json(Envelope::ok("")).into_response())
}
