use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, Method, Uri},
    response::Response,
};

use super::query::Query;
use crate::{
    Error, Result,
    app::App,
    http::{content, disposition::Disposition},
    link::Action,
    ops,
};

/// What a download link carries beside the parameters that all links have, in the order in which they are signed.
pub(super) const LINK_PARAMETERS: [&str; 3] = ["name", "bucket", "object"];

/// `GET` and `HEAD /download`
pub(in crate::http) async fn download_file(
    State(app): State<Arc<App>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    let query = Query::parse(uri.query());
    let uid = query.verified_uid(&app, Action::Download, &LINK_PARAMETERS)?;
    let disposition = match query.get("online") {
        "" | "1" => Disposition::Inline,
        "0" => Disposition::Attachment,
        _ => return Err(Error::invalid("`online` must be 0 or 1")),
    };
    let file = ops::download_file::download_file(&app, uid).await?;
    content::respond(&app, &file, &method, &headers, disposition).await
}
