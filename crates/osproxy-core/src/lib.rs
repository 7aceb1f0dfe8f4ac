//! The part of the service that is independent of protocols: operations, upload sessions, links,
//! tasks, admission and authentication.

mod admission;
mod app;
mod appends;
mod appends_elsewhere;
pub mod auth;
pub mod buckets;
mod cached;
mod detached_work;
mod digests;
mod disks;
mod error;
pub mod events;
mod health;
mod idempotency;
pub mod links;
mod metadata;
pub mod metrics;
mod node_state;
mod objects;
pub mod ops;
pub mod processing;
mod request_context;
mod session;
pub mod settings;
pub mod startup;
mod stats;
mod stores;
pub mod tasks;
mod uids;
pub mod webhooks;

use osproxy_types::boxed_future;

pub use admission::Admission;
pub use admission::admit::AdmissionGuard;
pub use admission::transfers::{Transfers, too_many_transfers};
pub use app::App;
pub use auth::{Authenticator, Caller};
pub use detached_work::DetachedWork;
pub use digests::ReadRateLimit;
pub use error::{Error, Result};
pub use health::{Dependency, Health, describe_clock_skew, describe_uid_lead};
pub use idempotency::{HeldIdempotencyKey, IdempotencyKeys, IdempotencyOutcome, RecordedAnswer};
pub use links::build_urls::{GRANT_PARAMETERS, UPLOAD_PARAMETERS, grant_links, upload_query};
pub use links::constraints::{download_constraints, upload_constraints};
pub use links::rotation::generate_link_key;
pub use metadata::{check_metadata, metadata_error};
pub use node_state::{LoadGuard, NodeState};
pub use objects::Objects;
pub use objects::inspect::is_gone;
pub use objects::reader::ContentReader;
pub use osproxy_cluster::{REQUEST_ID, RegisteredNode, X_FORWARDED_FOR};
pub use request_context::{ClientAddr, ProtocolOutcome, RequestId, Subject};
pub use stores::{StoreEntry, Stores};
pub use uids::Uids;
