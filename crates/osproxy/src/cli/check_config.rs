//! `osproxy check-config`

use crate::config::Loaded;

/// Says that a configuration which could be loaded is fine, and what in it has no effect.
pub fn run(loaded: &Loaded) -> anyhow::Result<()> {
    for warning in &loaded.warnings {
        super::say(&format!("warning: {warning}"));
    }
    super::say("the configuration is fine");
    Ok(())
}
