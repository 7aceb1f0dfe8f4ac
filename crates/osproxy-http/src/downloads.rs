//! Serves the content of a file, from a store of this node or through the node that has it.

use std::sync::Arc;

use axum::{
    http::{Method, request::Parts},
    response::Response,
};
use osproxy_api::ErrorCode;
use osproxy_core::{
    App, Result,
    ops::{
        self,
        download_file::{StoredFile, retry_if_moved},
    },
};
use osproxy_types::uid::Uid;

use crate::{
    extract::link,
    forward::{self, RequestSource},
    respond::{
        content::{self, Presentation},
        error::HandlerResult,
    },
};

/// Serves a GET or HEAD of the content of a file, and counts the use of its link. If the content
/// has moved to another store meanwhile, tries again there.
pub(crate) async fn serve_file(
    app: &Arc<App>,
    request: &Parts,
    uid: Uid,
    presentation: Presentation<'_>,
) -> HandlerResult<Response> {
    let source = forward::request_source(app, request)?;
    let file = ops::download_file::download_file(&app.files, uid).await?;
    let read = |file: Arc<StoredFile>| async move {
        match ops::locate_content::store_elsewhere(&app.files, &file) {
            None => content::respond(app, &file, &request.method, &request.headers, presentation).await,
            Some(store) => forward::forward_without_body(app, source, store, request).await,
        }
    };
    let has_moved = |response: &Result<Response>| match response {
        Ok(response) => forward::is_misdirected(response),
        Err(error) => error.code == ErrorCode::NodeUnavailable,
    };
    let response = retry_if_moved(&app.files, file, read, has_moved).await?;
    // Only responses with content count as a use, and only on the node that the client called.
    if source == RequestSource::Client && request.method == Method::GET && response.status().is_success() {
        link::count_use(app, presentation.link).await?;
    }
    Ok(response)
}
