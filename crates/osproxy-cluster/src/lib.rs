//! Coordination of the nodes of a cluster: registry, worker ids and uids, invalidations, and
//! forwarding of requests to the node that has the data. Several nodes coordinate through Redis. A
//! single node needs no Redis: its coordinator works within the process.

#[cfg(test)]
mod conformance;
mod coordinator;
mod forward;
mod forwarded_body;
mod local;
mod message;
mod owners;
mod peer_client;
mod redis;
mod settings;
pub mod timers;
pub mod trace_context;
mod uid_generator;
mod worker_lease;

pub use coordinator::{CoordError, Coordinator, DescribeNode, LoadReport, NodeDescription, RegisteredNode};
pub use forward::{ForwardContext, ForwardFailure, Forwarder, REQUEST_ID, X_FORWARDED_FOR};
pub use local::LocalCoordinator;
pub use message::{Event, Message};
use osproxy_types::boxed_future;
pub use owners::{NoOwner, Owners};
pub use peer_client::{
    Body, BoxError, Destination, ForwardError, InvalidPeerToken, PeerClient, boxed, is_error,
    remove_hop_by_hop_headers,
};
pub use redis::{RedisCoordinator, list_registry};
pub use settings::{ClusterTiming, RedisAddress, RedisSettings};
pub use uid_generator::{UidGenerator, UidWindow, WorkerId};
pub use worker_lease::WorkerLease;
