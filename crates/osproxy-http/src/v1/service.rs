//! Nodes and statistics of the service.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State, http::Uri};
use osproxy_api::v1::{Node, NodeLoad, Nodes, PREFIX, Stats};
use osproxy_cluster::Coordinator;
use osproxy_core::{
    App,
    ops::{self, list_nodes::RegisteredNode},
};

use super::{query::Query, render, time_format::format_time};
use crate::{
    extract::auth::{Admin, Authenticated},
    openapi,
    respond::error::HandlerResult,
};

/// `GET /nodes`
#[utoipa::path(
    get, path = "/nodes", context_path = PREFIX, tag = "Service", operation_id = "v1_list_nodes",
    summary = "List the nodes", description = "Lists nodes with a recent heartbeat.",
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "Nodes with a recent heartbeat. A single node lists only itself.", body = Nodes),
        openapi::CommonErrors,
    )
)]
pub(crate) async fn list_nodes(
    State(coordinator): State<Arc<dyn Coordinator>>,
    _: Authenticated<Admin>,
    uri: Uri,
) -> HandlerResult<Json<Nodes>> {
    Query::parse(uri.query(), &[])?;
    let nodes = ops::list_nodes::list_nodes(&*coordinator).await?;
    Ok(Json(Nodes { nodes: nodes.into_iter().map(node).collect() }))
}

fn node(registered: RegisteredNode) -> Node {
    let RegisteredNode { node, last_heartbeat } = registered;
    Node {
        id: node.id,
        address: node.address,
        version: node.version,
        stores: node.stores,
        own_stores: node.own_stores,
        started_at: format_time(node.started_at),
        heard_at: format_time(last_heartbeat),
        load: NodeLoad {
            requests: node.load.requests,
            tasks: node.load.tasks,
            load_average: node.load.load_average,
        },
    }
}

/// `GET /stats`
#[utoipa::path(
    get, path = "/stats", context_path = PREFIX, tag = "Service", operation_id = "v1_describe_service",
    summary = "Get statistics", description = "Counts files, blobs, bytes and tasks.",
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "The statistics, which may be some seconds old.", body = Stats),
        openapi::CommonErrors,
    )
)]
pub(crate) async fn describe_service(
    State(app): State<Arc<App>>,
    _: Authenticated<Admin>,
    uri: Uri,
) -> HandlerResult<Json<Stats>> {
    Query::parse(uri.query(), &[])?;
    let stats = ops::describe_service::describe_service(&app).await?;
    let mut files = BTreeMap::new();
    for (state, count) in &stats.files {
        *files.entry(render::state(*state).as_str().to_owned()).or_default() += count;
    }
    Ok(Json(Stats {
        counted_at: format_time(stats.counted_at),
        files,
        blobs: stats.blobs,
        bytes_stored: stats.bytes_stored,
        bytes_saved: stats.bytes_saved,
        tasks: stats.tasks_by_state(),
    }))
}
