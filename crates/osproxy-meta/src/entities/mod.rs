//! Tables, as `SeaORM` entities. The migrations create them.

#![expect(unreachable_pub, reason = "the ORM's derive macros make public items")]

pub(super) mod api_key;
pub(super) mod blob;
pub(super) mod challenge;
pub(super) mod file;
pub(super) mod idempotency_key;
pub(super) mod link_key;
pub(super) mod link_use;
pub(super) mod part;
pub(super) mod task;
pub(super) mod task_attempt;
pub(super) mod tenant;
