//! `osproxy.v1.ClusterService`

use std::sync::Arc;

use osproxy_api::grpc::v1::{
    ListNodesRequest, ListNodesResponse, Node, NodeLoad, cluster_service_server::ClusterService,
};
use osproxy_core::{App, RegisteredNode, ops};
use osproxy_types::scope::Scope;
use tonic::Request;

use super::{RpcResult, caller, render::timestamp, status::reply};

pub(super) struct Service(pub(super) Arc<App>);

#[tonic::async_trait]
impl ClusterService for Service {
    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> RpcResult<ListNodesResponse> {
        let result = async {
            caller(&request, Scope::Admin)?;
            let nodes = ops::list_nodes::list_nodes(&*self.0.coordinator).await?;
            Ok(ListNodesResponse { nodes: nodes.into_iter().map(node).collect() })
        }
        .await;
        reply(result)
    }
}

fn node(RegisteredNode { node, last_heartbeat: heard_at }: RegisteredNode) -> Node {
    Node {
        id: node.id,
        address: node.address,
        version: node.version,
        stores: node.stores,
        own_stores: node.own_stores,
        started_at: Some(timestamp(node.started_at)),
        heard_at: Some(timestamp(heard_at)),
        load: Some(NodeLoad {
            requests: node.load.requests,
            tasks: node.load.tasks,
            load_average: node.load.load_average,
        }),
    }
}
