//! `osproxy check-config`

use crate::config::Loaded;

/// Prints the warnings of a valid configuration. Invalid ones are reported while loading.
pub fn run(loaded: &Loaded) -> anyhow::Result<()> {
    for warning in &loaded.warnings {
        super::say(&format!("warning: {warning}"));
    }
    super::say("the configuration is fine");
    Ok(())
}
