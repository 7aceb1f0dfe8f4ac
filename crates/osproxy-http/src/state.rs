//! State of the routes. Handlers and middleware extract only the handles that they need.

use std::sync::Arc;

use axum::extract::FromRef;
use osproxy_cluster::{Coordinator, Forwarder};
use osproxy_core::{
    App, Authenticator, IdempotencyKeys,
    events::EventOps,
    links::Links,
    ops::{FileOps, TaskOps, UploadOps, WebhookOps},
};

use crate::{extract::link::LinkVerifier, respond::content::Downloads, settings::HttpSettings};

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

macro_rules! handles {
    ($($handle:ty: $get:expr,)*) => {$(
        impl FromRef<HttpState> for $handle {
            fn from_ref(state: &HttpState) -> Self {
                let get: fn(&HttpState) -> $handle = $get;
                get(state)
            }
        }
    )*};
}

handles! {
    Arc<App>: |state| state.app.clone(),
    Arc<HttpSettings>: |state| state.settings.clone(),
    Arc<Authenticator>: |state| state.app.auth.clone(),
    Arc<dyn Coordinator>: |state| state.app.coordinator.clone(),
    Arc<FileOps>: |state| state.app.files.clone(),
    Arc<IdempotencyKeys>: |state| state.app.idempotency.clone(),
    Arc<Links>: |state| state.app.links.clone(),
    Arc<TaskOps>: |state| state.app.tasks.clone(),
    Arc<EventOps>: |state| state.app.events.clone(),
    Arc<UploadOps>: |state| state.app.uploads.clone(),
    Arc<WebhookOps>: |state| state.app.webhooks.clone(),
    Forwarder: |state| state.app.forwarder.clone(),
    LinkVerifier: |state| LinkVerifier::new(state.app.links.clone(), state.app.forwarder.clone()),
    Downloads: |state| Downloads::new(&state.app),
}
