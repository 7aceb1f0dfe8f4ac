//! Pages for operators: start page, health, metrics, API documentation.

pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod start_page;
pub(crate) mod swagger;
