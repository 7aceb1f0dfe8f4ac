use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use osproxy_api::v0::PREFIX;
use osproxy_core::{App, Error, links::LinkAction};

use super::query::LenientQuery;
use crate::{
    downloads::serve_file,
    openapi,
    respond::{content::Presentation, disposition::Disposition, error::HandlerResult},
};

/// Parameters of download links beyond those of all links, in the order of the signature.
pub(super) const LINK_PARAMETERS: [&str; 3] = ["name", "bucket", "object"];

/// `GET` and `HEAD /download`
#[utoipa::path(
    get, path = "/download", context_path = PREFIX, tag = "v0 Downloads",
    summary = "Download a file or a range of it", description = "",
    params(
        openapi::DownloadLinkQuery,
        ("online" = inline(Option<openapi::OnlineValue>), Query, description = "`0`: browsers save the file; `1` or absent: they display it."),
        openapi::ConditionalHeaders,
    ),
    responses(
        openapi::ContentResponses,
        (status = 403, response = openapi::Forbidden),
        (status = 404, response = openapi::NotFound),
        (status = 412, response = openapi::PreconditionFailed),
        (status = 416, response = openapi::RangeNotSatisfiable),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
    )
)]
pub(crate) async fn download_file(State(app): State<Arc<App>>, request: Request) -> HandlerResult<Response> {
    let (request, _) = request.into_parts();
    let query = LenientQuery::parse(request.uri.query());
    let (uid, link) = query.verify_link(&app, &request, LinkAction::Download, &LINK_PARAMETERS).await?;
    let disposition = match query.get("online") {
        "" | "1" => Disposition::Inline,
        "0" => Disposition::Attachment,
        _ => return Err(Error::invalid("`online` must be 0 or 1").into()),
    };
    serve_file(&app, &request, uid, Presentation { disposition, filename: None, link: &link }).await
}
