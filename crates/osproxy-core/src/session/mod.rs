//! The upload session: the one path of bodies into the stores, whatever the protocol. It begins in
//! `upload_session.rs`.

mod part;
mod receive;
mod upload_session;
mod whole;

pub(crate) use upload_session::{Piece, WriteRequest, write};
pub(crate) use whole::share_known_content;
