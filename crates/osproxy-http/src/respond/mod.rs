//! Renders responses: content, errors, content disposition.

pub(crate) mod content;
pub(crate) mod disposition;
pub(crate) mod error;
