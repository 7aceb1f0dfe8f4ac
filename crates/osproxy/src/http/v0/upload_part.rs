use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use osproxy_api::v0::Envelope;

use super::{body, query::Query};
use crate::{
    Result,
    app::App,
    http::forward::{self, Origin},
    link::Action,
    ops::{
        self,
        upload_file::{Claims, Wanted},
    },
};

/// `PUT /upload/multi`: one part, in the field `file` of a form, or as the body.
pub(in crate::http) async fn upload_part(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let (request, content) = request.into_parts();
    let query = Query::parse(request.uri.query());
    let uid = query.verified_uid(&app, Action::Upload, &[])?;
    let number = query.number("chunkNum")?;
    ops::upload_part::check_number(&app, number)?;
    let md5 = query.md5()?;
    if forward::origin(&app, &request)? == Origin::Client
        && let Some(store) = ops::locate_content::settle_parts(&app, uid).await?
    {
        drop(query);
        return forward::forward(&app, Origin::Client, &store, Request::from_parts(request, content)).await;
    }
    let (size, content) = body::content(&request.headers, content, md5).await?;
    let claims = Claims::of_md5(md5);
    ops::upload_part::upload_part(&app, uid, number, claims, Wanted::MD5, size, content).await?;
    Ok(Json(Envelope::ok("")).into_response())
}
