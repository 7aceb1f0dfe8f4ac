//! Serves the content of a file from a store of this node, or forwards the request to a node that
//! has the content.

use std::sync::Arc;

use axum::{
    http::{Method, request::Parts},
    response::Response,
};
use osproxy_api::ErrorCode;
use osproxy_cluster::Forwarder;
use osproxy_core::{
    App, Result,
    ops::{
        self, FileOps,
        download_file::{StoredFile, retry_if_moved},
    },
};
use osproxy_types::uid::Uid;

use crate::{
    extract::link::LinkVerifier,
    forward::{self, RequestSource},
    respond::{
        content::{self, Presentation},
        error::HandlerResult,
    },
};

/// State of the download handlers.
#[derive(Clone)]
pub(crate) struct Downloads {
    pub(crate) files: Arc<FileOps>,
    pub(crate) link_verifier: LinkVerifier,
    forwarder: Forwarder,
    /// Whether shared caches may store content. Set by `links.public_cache`.
    pub(crate) public_links: bool,
}

impl Downloads {
    pub(crate) fn new(app: &App) -> Self {
        Self {
            files: app.files.clone(),
            link_verifier: LinkVerifier::new(app.links.clone(), app.forwarder.clone()),
            forwarder: app.forwarder.clone(),
            public_links: app.limits.public_links,
        }
    }
}

/// Serves a GET or HEAD request for the content of a file, and counts the use of its link. If the
/// content has moved to another store meanwhile, tries again with that store.
pub(crate) async fn serve_file(
    downloads: &Downloads,
    request: &Parts,
    uid: Uid,
    presentation: Presentation<'_>,
) -> HandlerResult<Response> {
    let source = forward::request_source(&downloads.forwarder, request)?;
    let file = ops::download_file::download_file(&downloads.files, uid).await?;
    let read = |file: Arc<StoredFile>| async move {
        match ops::locate_content::store_elsewhere(&downloads.files, &file) {
            None => content::respond(downloads, &file, &request.method, &request.headers, presentation).await,
            Some(store) => forward::forward_without_body(&downloads.forwarder, source, store, request).await,
        }
    };
    let has_moved = |response: &Result<Response>| match response {
        Ok(response) => forward::is_misdirected(response),
        Err(error) => error.code == ErrorCode::NodeUnavailable,
    };
    let response = retry_if_moved(&downloads.files, file, read, has_moved).await?;
    // Only a GET that returns content is a use. The node that the client called counts it, not the
    // node to which the request was forwarded.
    if source == RequestSource::Client && request.method == Method::GET && response.status().is_success() {
        downloads.link_verifier.count_use(presentation.link).await?;
    }
    Ok(response)
}
