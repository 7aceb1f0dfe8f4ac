//! Several nodes that act as one service.

mod appends;
mod client;
mod divided;
mod events;
mod forwarding;
mod leaving;
mod removed_store;
mod s3;
pub mod stack;
mod strangers;
mod takeover;
mod torture;
mod versions;
