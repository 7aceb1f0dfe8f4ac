//! Admission: the decision whether a request may start. Checks concurrency limits, backpressure,
//! quota and disk space.

pub(crate) mod admit;
pub(crate) mod backpressure;
pub(crate) mod reservations;
pub(crate) mod transfers;

use std::sync::Arc;

use osproxy_meta::Meta;

use crate::{Stores, Transfers, metrics::Metrics, settings::Limits};

/// Decides whether requests may start.
pub struct Admission {
    pub(crate) meta: Arc<Meta>,
    pub(crate) stores: Arc<Stores>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
    /// Concurrency limits and buffer memory of transfers.
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) reservations: reservations::DiskReservations,
}
