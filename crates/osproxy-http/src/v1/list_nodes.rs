use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use osproxy_api::v1::{Node, NodeLoad, Nodes, PREFIX};
use osproxy_core::{
    App,
    ops::list_nodes::{self, RegisteredNode},
};

use super::{query::Query, time_format::format_time};
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
        (status = 200, description = "The nodes. A node without a cluster lists itself.", body = Nodes),
        openapi::Failures,
    )
)]
pub(crate) async fn list_nodes(
    State(app): State<Arc<App>>,
    _: Authenticated<Admin>,
    uri: Uri,
) -> HandlerResult<Json<Nodes>> {
    Query::parse(uri.query(), &[])?;
    let nodes = list_nodes::list_nodes(&app).await?;
    Ok(Json(Nodes { nodes: nodes.into_iter().map(node).collect() }))
}

fn node(RegisteredNode { node, last_heartbeat: heard_at }: RegisteredNode) -> Node {
    Node {
        id: node.id,
        address: node.address,
        version: node.version,
        stores: node.stores,
        own_stores: node.own_stores,
        started_at: format_time(node.started_at),
        heard_at: format_time(heard_at),
        load: NodeLoad {
            requests: node.load.requests,
            tasks: node.load.tasks,
            load_average: node.load.load_average,
        },
    }
}
