//! The state of the routes. Handlers and middleware extract the part that they need.

use std::sync::Arc;

use axum::extract::FromRef;
use osproxy_core::App;

use crate::settings::HttpSettings;

/// State of the routes.
#[derive(Clone)]
pub(crate) struct HttpState {
    pub(crate) app: Arc<App>,
    pub(crate) settings: Arc<HttpSettings>,
}

impl HttpState {
    pub(crate) fn new(app: Arc<App>, settings: &HttpSettings) -> Self {
        Self { app, settings: Arc::new(settings.clone()) }
    }
}

impl FromRef<HttpState> for Arc<App> {
    fn from_ref(state: &HttpState) -> Self {
        state.app.clone()
    }
}

impl FromRef<HttpState> for Arc<HttpSettings> {
    fn from_ref(state: &HttpState) -> Self {
        state.settings.clone()
    }
}
