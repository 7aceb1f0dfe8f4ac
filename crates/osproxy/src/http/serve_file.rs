//! Serves a file, wherever its bytes lie.

use std::sync::Arc;

use axum::{http::request::Parts, response::Response};
use osproxy_api::ErrorCode;

use super::{
    content::{self, Presentation},
    forward,
};
use crate::{Result, app::App, ops, uid::Uid};

/// How often a file is followed whose bytes move from one node to another.
const ROUNDS: usize = 3;

/// Answers a GET or HEAD for the content of a file: from here, or from the node that has it at hand.
pub(super) async fn serve_file(
    app: &Arc<App>,
    request: &Parts,
    uid: Uid,
    wanted: Presentation<'_>,
) -> Result<Response> {
    let origin = forward::origin(app, request)?;
    let mut file = ops::download_file::download_file(app, uid).await?;
    let mut round = 1;
    loop {
        let answer = match ops::locate_content::elsewhere(app, &file) {
            None => content::respond(app, &file, &request.method, &request.headers, wanted).await,
            Some(store) => forward::forward_head(app, origin, store, request).await,
        };
        let has_moved = match &answer {
            Ok(answer) => forward::is_misdirected(answer),
            Err(error) => error.code == ErrorCode::NodeUnavailable,
        };
        if !has_moved || round == ROUNDS {
            return answer;
        }
        // What is known of it may be from before its bytes moved.
        let Some(moved) = ops::download_file::follow_file(app, &file).await? else {
            return answer;
        };
        (file, round) = (moved, round + 1);
    }
}
