//! Tables, as `SeaORM` entities. The migrations create them.

#![expect(unreachable_pub, reason = "the ORM's derive macros make public items")]

pub(crate) mod api_key;
pub(crate) mod blob;
pub(crate) mod bucket;
pub(crate) mod challenge;
pub(crate) mod event;
pub(crate) mod event_position;
pub(crate) mod file;
pub(crate) mod idempotency_key;
pub(crate) mod link_key;
pub(crate) mod link_use;
pub(crate) mod object;
pub(crate) mod object_upload;
pub(crate) mod pack;
pub(crate) mod part;
pub(crate) mod s3_key;
pub(crate) mod task;
pub(crate) mod task_attempt;
pub(crate) mod tenant;
pub(crate) mod upload_grant;
pub(crate) mod webhook;
pub(crate) mod webhook_delivery;
