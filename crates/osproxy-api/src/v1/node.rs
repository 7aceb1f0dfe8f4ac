use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema::Moment;

/// The nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Nodes {
    /// Those that were heard of lately. A node that is alone knows itself.
    pub nodes: Vec<Node>,
}

/// A node that was heard of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// What the process is called; no two have the same.
    #[schema(example = "b5f1c2a0d3e4f607")]
    pub id: String,
    /// Host and port at which other nodes reach it.
    #[schema(example = "10.0.0.7:8888")]
    pub address: String,
    /// Of the program.
    #[schema(example = "0.1.0")]
    pub version: String,
    /// The stores that it has at hand, that of new files first.
    pub stores: Vec<String>,
    /// Those of them that no other node has at hand.
    pub own_stores: Vec<String>,
    /// When it started.
    #[schema(value_type = Moment)]
    pub started_at: String,
    /// When it was heard of last.
    #[schema(value_type = Moment)]
    pub heard_at: String,
    /// How busy it is.
    pub load: NodeLoad,
}

/// How busy a node is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeLoad {
    /// Requests that are running.
    pub requests: u64,
    /// Tasks that are running.
    pub tasks: u64,
    /// Processes of its machine that run or wait to, on average over the last minute.
    pub load_average: f64,
}
