//! `grpc.health.v1.Health`: are requests welcome?

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, stream};
use osproxy_api::grpc::v1::{
    cluster_service_server::SERVICE_NAME as CLUSTER, file_service_server::SERVICE_NAME as FILES,
    task_service_server::SERVICE_NAME as TASKS,
};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use super::Answer;
use crate::{app::App, ops::check_health::readiness};

/// How often those who watch are looked for.
const LOOK: Duration = Duration::from_secs(1);

struct Service(Arc<Looked>);

/// What was seen when somebody looked last. All who watch share that.
struct Looked {
    app: Arc<App>,
    welcome: Mutex<Option<(Instant, bool)>>,
}

pub(super) fn service(app: Arc<App>) -> HealthServer<impl Health> {
    HealthServer::new(Service(Arc::new(Looked { app, welcome: Mutex::default() })))
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Answer<HealthCheckResponse> {
        match status(&self.0, &request.get_ref().service).await {
            ServingStatus::ServiceUnknown => Err(Status::not_found("there is no such service")),
            status => Ok(Response::new(told(status))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Answer<Self::WatchStream> {
        let (looked, service) = (self.0.clone(), request.into_inner().service);
        let statuses = stream::unfold(None, move |before| {
            let (looked, service) = (looked.clone(), service.clone());
            async move {
                let status = change(&looked, &service, before).await?;
                Some((Ok(told(status)), Some(status)))
            }
        });
        Ok(Response::new(Box::pin(statuses)))
    }
}

fn told(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

/// All services are as well as the node is.
async fn status(looked: &Looked, service: &str) -> ServingStatus {
    if !["", FILES, TASKS, CLUSTER].contains(&service) {
        return ServingStatus::ServiceUnknown;
    }
    if looked.is_welcome().await { ServingStatus::Serving } else { ServingStatus::NotServing }
}

impl Looked {
    async fn is_welcome(&self) -> bool {
        if self.app.is_draining() {
            return false;
        }
        let mut welcome = self.welcome.lock().await;
        match *welcome {
            Some((at, welcome)) if at.elapsed() < LOOK => welcome,
            _ => {
                let is_welcome = readiness(&self.app).await.is_welcome();
                *welcome = Some((Instant::now(), is_welcome));
                is_welcome
            }
        }
    }
}

/// The status once it is another than before; none once the node stops and has said so, which would wait for its streams.
async fn change(looked: &Looked, service: &str, before: Option<ServingStatus>) -> Option<ServingStatus> {
    loop {
        // Before the look: what it tells then is the last that there is to tell.
        let stops = looked.app.is_draining();
        let status = status(looked, service).await;
        if before != Some(status) {
            return Some(status);
        }
        if stops {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}
