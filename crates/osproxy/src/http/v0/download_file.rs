use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use osproxy_api::ErrorCode;

use super::query::Query;
use crate::{
    Error, Result,
    app::App,
    http::{content, disposition::Disposition, forward},
    link::Action,
    ops,
};

/// What a download link carries beside the parameters that all links have, in the order in which they are signed.
pub(super) const LINK_PARAMETERS: [&str; 3] = ["name", "bucket", "object"];

/// How often a file is followed whose bytes move from one node to another.
const ROUNDS: usize = 3;

/// `GET` and `HEAD /download`
pub(in crate::http) async fn download_file(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response> {
    let (request, _) = request.into_parts();
    let query = Query::parse(request.uri.query());
    let uid = query.verified_uid(&app, Action::Download, &LINK_PARAMETERS)?;
    let disposition = match query.get("online") {
        "" | "1" => Disposition::Inline,
        "0" => Disposition::Attachment,
        _ => return Err(Error::invalid("`online` must be 0 or 1")),
    };
    let origin = forward::origin(&app, &request)?;
    let mut file = ops::download_file::download_file(&app, uid).await?;
    let mut round = 1;
    loop {
        let answer = match ops::locate_content::elsewhere(&app, &file) {
            None => content::respond(&app, &file, &request.method, &request.headers, disposition).await,
            Some(store) => forward::forward_head(&app, origin, store, &request).await,
        };
        let has_moved = match &answer {
            Ok(answer) => forward::is_misdirected(answer),
            Err(error) => error.code == ErrorCode::NodeUnavailable,
        };
        if !has_moved || round == ROUNDS {
            return answer;
        }
        // What is known of it may be from before its bytes moved.
        let Some(moved) = ops::download_file::follow_file(&app, &file).await? else {
            return answer;
        };
        (file, round) = (moved, round + 1);
    }
}
