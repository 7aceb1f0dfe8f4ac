//! Does everything that requests need answer?

use std::sync::Arc;

use crate::{
    Result,
    app::{App, Need},
};

/// What a node needs and does not have, and whether requests should rather go to another one.
pub async fn check_needs(app: &Arc<App>) -> (Vec<Need>, bool) {
    let down = app.what_is_down().await;
    let is_better_spared = app.is_better_spared(&down);
    (down, is_better_spared)
}

/// Touches the database.
pub async fn check_health(app: &App) -> Result<()> {
    Ok(app.meta.ping().await?)
}
