//! Does everything that requests need answer?

use crate::{Result, app::App};

/// Touches the database.
pub async fn check_health(app: &App) -> Result<()> {
    Ok(app.meta.ping().await?)
}
