//! The one binary. What the verbs do is in `osproxy::cli`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use osproxy::{cli, config, version};

/// A file-storage microservice between applications and any object store.
#[derive(Parser)]
#[command(version = version::FULL, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve until SIGTERM or SIGINT; then finish what is running and exit 0.
    Serve(Listening),
    /// Say everything that is wrong with the configuration, and exit 1 if anything is.
    CheckConfig(Listening),
    /// Try every store, and say what is wrong and what to do about it; exit 1 if anything is. Services may be running.
    Doctor(Settings),
    /// Bring the tables of the database up to date, as `serve` does when it starts. Services may be running.
    Migrate(Settings),
    /// Look at background tasks, and let failed ones be tried again. The service may be running.
    Tasks {
        #[command(subcommand)]
        verb: cli::tasks::Verb,
        #[command(flatten)]
        settings: Settings,
    },
    /// Make, list and revoke the API keys that applications are let in with. Services may be running.
    Key {
        #[command(subcommand)]
        verb: cli::key::Verb,
        #[command(flatten)]
        settings: Settings,
    },
    /// Say how much tenants may store, and see what they do. Services may be running.
    Tenant {
        #[command(subcommand)]
        verb: cli::tenant::Verb,
        #[command(flatten)]
        settings: Settings,
    },
    /// Look after the keys that sign links. Services may be running.
    LinkKey {
        #[command(subcommand)]
        verb: cli::link_key::Verb,
        #[command(flatten)]
        settings: Settings,
    },
    /// Tell the story of an upload: its link, its parts, its content, and what was done with it in the background. Services
    /// may be running.
    Explain {
        #[command(flatten)]
        options: cli::explain::Options,
        #[command(flatten)]
        settings: Settings,
    },
    /// List the nodes of the cluster that were heard of lately. Services may be running.
    Nodes {
        #[command(flatten)]
        options: cli::nodes::Options,
        #[command(flatten)]
        settings: Settings,
    },
    /// Ask the running node of this configuration whether it is ready to serve; exit 1 if it is not. For health checks of containers.
    Health {
        #[command(flatten)]
        options: cli::health::Options,
        #[command(flatten)]
        listening: Listening,
    },
    /// Print the OpenAPI document that `serve` has at /openapi.json.
    Openapi,
    /// Compare metadata and store, both ways; exit 3 if all differences were repaired, 4 if some are left.
    /// The service must not be running.
    Fsck {
        #[command(flatten)]
        options: cli::fsck::Options,
        #[command(flatten)]
        settings: Settings,
    },
    /// Take over the files of a Go program of the same name, which must be stopped, and whose objects stay where they are;
    /// exit 4 if something was skipped. The service must not be running.
    ImportGo {
        #[command(flatten)]
        options: cli::import_go::Options,
        #[command(flatten)]
        settings: Settings,
    },
    /// Read all content that is stored, at a limited rate, and say what is not as it was; exit 4 if anything is not.
    /// Changes nothing; services may be running.
    Scrub {
        #[command(flatten)]
        options: cli::scrub::Options,
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(Args)]
struct Settings {
    /// Folder for everything osproxy keeps on this machine [default: osproxy-data].
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// YAML file with settings; see config/config.yaml [default: the one that `OSPROXY_CONFIG` names].
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Args)]
struct Listening {
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:8888].
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

impl Settings {
    fn load(self, listen: Option<String>) -> Result<config::Loaded, config::InvalidConfig> {
        let overrides = config::Overrides { listen, data_dir: self.data_dir };
        config::load(self.config.as_deref(), overrides)
    }
}

impl Listening {
    fn load(self) -> Result<config::Loaded, config::InvalidConfig> {
        self.settings.load(self.listen)
    }
}

fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Serve(settings) => cli::serve::run(settings.load()?)?,
        Verb::CheckConfig(settings) => cli::check_config::run(&settings.load()?)?,
        Verb::Doctor(settings) => return cli::doctor::run(&settings.load(None)?),
        Verb::Migrate(settings) => cli::migrate::run(&settings.load(None)?)?,
        Verb::Tasks { verb, settings } => cli::tasks::run(&settings.load(None)?, verb)?,
        Verb::Key { verb, settings } => cli::key::run(&settings.load(None)?, verb)?,
        Verb::Tenant { verb, settings } => cli::tenant::run(&settings.load(None)?, verb)?,
        Verb::LinkKey { verb, settings } => cli::link_key::run(&settings.load(None)?, verb)?,
        Verb::Explain { options, settings } => cli::explain::run(&settings.load(None)?, options)?,
        Verb::Nodes { options, settings } => cli::nodes::run(&settings.load(None)?, options)?,
        Verb::Health { options, listening } => cli::health::run(&listening.load()?, options)?,
        Verb::Openapi => cli::openapi::run()?,
        Verb::Fsck { options, settings } => return cli::fsck::run(&settings.load(None)?, options),
        Verb::ImportGo { options, settings } => return cli::import_go::run(&settings.load(None)?, &options),
        Verb::Scrub { options, settings } => return cli::scrub::run(&settings.load(None)?, options),
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            cli::complain(&error);
            ExitCode::FAILURE
        }
    }
}
