//! `osproxy check-config`: checks the configuration and prints warnings.

use crate::config::LoadedConfig;

/// Prints the warnings of a valid configuration. Loading has already failed for an invalid
/// configuration.
pub fn run(loaded: &LoadedConfig) -> anyhow::Result<()> {
    for warning in &loaded.warnings {
        super::print_line(&format!("warning: {warning}"));
    }
    super::print_line("the configuration is valid");
    Ok(())
}
