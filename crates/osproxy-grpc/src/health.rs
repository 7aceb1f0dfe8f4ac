//! `grpc.health.v1.Health`: readiness of the node.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use osproxy_api::grpc::v1::{
    cluster_service_server::SERVICE_NAME as CLUSTER, file_service_server::SERVICE_NAME as FILES,
    task_service_server::SERVICE_NAME as TASKS,
};
use osproxy_core::{App, ops::check_health::readiness};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use super::RpcResult;

/// Interval between two checks of the status in a call of `Watch`.
const LOOK: Duration = Duration::from_secs(1);

struct Service(Arc<App>);

pub(super) fn service(app: Arc<App>) -> HealthServer<impl Health> {
    HealthServer::new(Service(app))
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(&self, request: Request<HealthCheckRequest>) -> RpcResult<HealthCheckResponse> {
        match status(&self.0, &request.get_ref().service).await {
            ServingStatus::ServiceUnknown => Err(Status::not_found("unknown service")),
            status => Ok(Response::new(response(status))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> RpcResult<Self::WatchStream> {
        let (app, service) = (self.0.clone(), request.into_inner().service);
        let statuses = stream::unfold(None, move |before| {
            let (app, service) = (app.clone(), service.clone());
            async move {
                let status = next_status(&app, &service, before).await?;
                Some((Ok(response(status)), Some(status)))
            }
        });
        Ok(Response::new(Box::pin(statuses)))
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

/// Returns the status of a service: the status of the node, or `ServiceUnknown` if no service has
/// this name.
async fn status(app: &Arc<App>, service: &str) -> ServingStatus {
    if !["", FILES, TASKS, CLUSTER].contains(&service) {
        return ServingStatus::ServiceUnknown;
    }
    if readiness(app).await.accepts_requests() { ServingStatus::Serving } else { ServingStatus::NotServing }
}

/// Waits until the status differs from `before`, and returns the new status. Returns `None` if the
/// node drains and the status is still `before`. The stream then ends, so that shutdown does not
/// wait for the stream.
async fn next_status(app: &Arc<App>, service: &str, before: Option<ServingStatus>) -> Option<ServingStatus> {
    loop {
        // Must come before the check of the status. Otherwise, if draining began between the two
        // checks, the stream would end without sending the status of the draining node.
        let is_draining = app.node.is_draining();
        let status = status(app, service).await;
        if before != Some(status) {
            return Some(status);
        }
        if is_draining {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}
