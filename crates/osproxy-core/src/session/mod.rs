//! The upload session: the path that every body takes into a store, whatever the protocol. The
//! entry point is `write` in `upload_session.rs`, or `append` in `append.rs` for bodies that continue an
//! upload.

mod append;
mod body_digest;
mod part;
mod receive;
mod small;
mod upload_session;
mod whole;

pub(crate) use append::{
    AppendRequest, append, check_open, open_position, settled_position, superseded_error,
};
pub use body_digest::BodyDigest;
pub(crate) use body_digest::verify_body;
pub(crate) use small::{NewFileOutcome, NewSmallFile, WriteFailures, may_create_small, try_create};
pub(crate) use upload_session::{Piece, WriteRequest, write};
pub(crate) use whole::share_known_content;
