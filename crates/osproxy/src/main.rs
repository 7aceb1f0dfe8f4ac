//! The one binary. What the verbs do is in `osproxy::cli`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use osproxy::{cli, config};

/// A file-storage microservice between applications and any object store.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve until SIGTERM or SIGINT; then finish what is running and exit 0.
    Serve(Settings),
    /// Say everything that is wrong with the configuration, and exit 1 if anything is.
    CheckConfig(Settings),
}

#[derive(Args)]
struct Settings {
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:8888].
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Folder for everything osproxy keeps on this machine [default: osproxy-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// YAML file with settings; see config/config.yaml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Settings {
    fn load(self) -> Result<config::Loaded, config::InvalidConfig> {
        let overrides = config::Overrides { listen: self.listen, data_dir: self.data_dir };
        config::load(self.config.as_deref(), overrides)
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Serve(settings) => settings.load().map_err(anyhow::Error::from).and_then(cli::serve::run),
        Verb::CheckConfig(settings) => {
            settings.load().map_err(anyhow::Error::from).and_then(|loaded| cli::check_config::run(&loaded))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::complain(&error);
            ExitCode::FAILURE
        }
    }
}
