//! Several nodes that act as one service.

mod client;
mod divided;
mod forwarding;
mod leaving;
pub mod stack;
mod strangers;
mod takeover;
mod torture;
mod versions;
