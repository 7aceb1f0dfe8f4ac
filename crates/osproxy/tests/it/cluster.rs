//! Nodes as one service: each answers for all.

mod client;
mod divided;
mod forwarding;
mod leaving;
pub mod stack;
mod strangers;
mod takeover;
mod torture;
mod versions;
