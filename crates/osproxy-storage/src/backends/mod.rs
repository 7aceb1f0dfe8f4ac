//! Backends: one module for each kind of store. A new kind also needs a section of settings and a
//! `StoreKind` in the configuration of the binary.

mod cos;
mod local;
mod memory;
mod oss;
mod s3;

pub use cos::{CosSettings, cos};
pub(crate) use local::packs::record_size as packed_size;
pub use local::{Local, ProbeResult};
pub use memory::Memory;
pub use oss::{OssSettings, oss, oss_region};
pub use s3::{S3Settings, s3};

#[cfg(test)]
pub(crate) use {
    cos::{Cos, open as open_cos},
    oss::{Oss, open as open_oss},
    s3::{S3, open as open_s3},
};
