//! The osproxy binary: parses the command line and runs one subcommand of `osproxy::cli`.

use std::{fmt::Write, path::PathBuf, process::ExitCode};

use clap::{Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use osproxy::{cli, config, version};

/// Takes less CPU time than the allocator of the C library.
#[cfg(all(feature = "jemalloc", target_os = "linux"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A file-storage service between applications and object stores.
#[derive(Parser)]
#[command(version = version::FULL, about)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Subcommand)]
enum CliCommand {
    /// Run the service; on SIGTERM, SIGINT or SIGHUP finish running requests and exit 0
    Serve(ListenArgs),
    /// Check the configuration and print every problem
    CheckConfig(ListenArgs),
    /// Test the configured stores and the clock; print problems and how to fix them
    Doctor(ConfigArgs),
    /// Create the database file if it is missing and update the tables, as `serve` does
    Migrate(ConfigArgs),
    /// List background tasks, show one with its attempts, or retry a failed one
    Tasks {
        #[command(subcommand)]
        command: cli::tasks::TasksCommand,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// Create, list and revoke API keys
    Key {
        #[command(subcommand)]
        command: cli::key::KeyCommand,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// List buckets, and make them public or private
    Bucket {
        #[command(subcommand)]
        command: cli::bucket::BucketCommand,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// Set quotas of tenants and show how much they use
    Tenant {
        #[command(subcommand)]
        command: cli::tenant::TenantCommand,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// Create, list, show and revoke upload grants
    UploadGrant {
        #[command(subcommand)]
        command: cli::upload_grant::UploadGrantCommand,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// Create, test, list and replay webhooks
    Webhook {
        #[command(subcommand)]
        command: cli::webhook::WebhookCommand,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// Create, list and revoke keys of the S3 API
    S3Key {
        #[command(subcommand)]
        command: cli::s3_key::S3KeyCommand,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// Rotate, list and revoke the keys that sign links
    LinkKey {
        #[command(subcommand)]
        command: cli::link_key::LinkKeyCommand,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// Show the history of an upload: link, parts, content, background tasks
    Explain {
        #[command(flatten)]
        options: cli::explain::ExplainArgs,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// List the live nodes of the cluster
    Nodes {
        #[command(flatten)]
        options: cli::nodes::NodesArgs,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// Check whether the running node is ready; for health checks of containers
    Health {
        #[command(flatten)]
        options: cli::health::HealthArgs,
        #[command(flatten)]
        listening: ListenArgs,
    },
    /// Print the OpenAPI document that `serve` publishes at /openapi.json
    Openapi,
    /// Report or repair differences between metadata and stores; stop the service first
    Fsck {
        #[command(flatten)]
        options: cli::fsck::FsckArgs,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// Import files from the Go program of the same name; both services must be stopped
    ImportGo {
        #[command(flatten)]
        options: cli::import_go::ImportGoArgs,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// List, release or delete files that processing found dangerous
    Quarantine {
        #[command(subcommand)]
        command: cli::quarantine::QuarantineCommand,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// Process readable files again, for example after an update of the signatures
    Rescan {
        #[command(flatten)]
        options: cli::rescan::RescanArgs,
        #[command(flatten)]
        settings: ConfigArgs,
    },
    /// Restrict this process, then run a program of the processing pipeline
    #[command(hide = true)]
    Sandbox(cli::sandbox::SandboxArgs),
    /// Restrict this process, then describe the image on standard input
    #[command(hide = true)]
    DecodeImage(cli::sandbox::DecodeImageArgs),
    /// Read all stored content at a limited rate and report damage; changes nothing
    Scrub {
        #[command(flatten)]
        options: cli::scrub::ScrubArgs,
        #[command(flatten)]
        settings: ConfigArgs,
    },
}

/// Groups of subcommands in `osproxy --help`. The subcommands in `Repair` require that the service
/// is stopped.
const COMMAND_GROUPS: [(&str, &[&str]); 5] = [
    ("Serve", &["serve", "check-config", "migrate", "health", "openapi"]),
    ("Inspect", &["doctor", "explain", "tasks", "nodes", "scrub"]),
    ("Access", &["key", "s3-key", "bucket", "link-key", "upload-grant", "tenant", "webhook"]),
    ("Processing", &["quarantine", "rescan"]),
    ("Repair", &["fsck", "import-go"]),
];

fn grouped_command() -> Command {
    let command = Cli::command();
    let mut help = String::from("{about}\n\n{usage-heading} {usage}\n");
    for (title, names) in COMMAND_GROUPS {
        let _ = writeln!(help, "\n{title}:");
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let _ = writeln!(help, "  {name:<13} {}", about.cloned().unwrap_or_default());
        }
    }
    help.push_str("\n`osproxy help COMMAND` describes a command.\n\nOptions:\n{options}\n\n{after-help}");
    command.help_template(help).after_help(cli::EXIT_CODES)
}

#[derive(Args)]
struct ConfigArgs {
    /// Folder for all data that osproxy keeps on this machine [default: osproxy-data].
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// YAML configuration file; see config/config.yaml [default: `OSPROXY_CONFIG`].
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Args)]
struct ListenArgs {
    /// Address and port to listen on; port 0 picks a free port [default: 127.0.0.1:8888].
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    #[command(flatten)]
    settings: ConfigArgs,
}

impl ConfigArgs {
    fn load(self, listen: Option<String>) -> Result<config::LoadedConfig, config::InvalidConfig> {
        let overrides = config::ConfigOverrides { listen, data_dir: self.data_dir };
        config::load(self.config.as_deref(), overrides)
    }
}

impl ListenArgs {
    fn load(self) -> Result<config::LoadedConfig, config::InvalidConfig> {
        self.settings.load(self.listen)
    }
}

fn run(command: CliCommand) -> anyhow::Result<ExitCode> {
    match command {
        CliCommand::Serve(settings) => cli::serve::run(settings.load()?)?,
        CliCommand::CheckConfig(settings) => cli::check_config::run(&settings.load()?)?,
        CliCommand::Doctor(settings) => return cli::doctor::run(&settings.load(None)?),
        CliCommand::Migrate(settings) => cli::migrate::run(&settings.load(None)?)?,
        CliCommand::Tasks { command, settings } => cli::tasks::run(&settings.load(None)?, command)?,
        CliCommand::Key { command, settings } => cli::key::run(&settings.load(None)?, command)?,
        CliCommand::Bucket { command, settings } => cli::bucket::run(&settings.load(None)?, command)?,
        CliCommand::Tenant { command, settings } => cli::tenant::run(&settings.load(None)?, command)?,
        CliCommand::UploadGrant { command, settings } => {
            cli::upload_grant::run(&settings.load(None)?, command)?;
        }
        CliCommand::S3Key { command, settings } => cli::s3_key::run(&settings.load(None)?, command)?,
        CliCommand::LinkKey { command, settings } => cli::link_key::run(&settings.load(None)?, command)?,
        CliCommand::Webhook { command, settings } => cli::webhook::run(&settings.load(None)?, command)?,
        CliCommand::Explain { options, settings } => cli::explain::run(&settings.load(None)?, options)?,
        CliCommand::Nodes { options, settings } => cli::nodes::run(&settings.load(None)?, options)?,
        CliCommand::Health { options, listening } => return cli::health::run(&listening.load()?, options),
        CliCommand::Openapi => cli::openapi::run()?,
        CliCommand::Quarantine { command, settings } => cli::quarantine::run(&settings.load(None)?, command)?,
        CliCommand::Rescan { options, settings } => cli::rescan::run(&settings.load(None)?, options)?,
        CliCommand::Sandbox(options) => return Ok(cli::sandbox::run(options)),
        CliCommand::DecodeImage(options) => return cli::sandbox::decode_image(options),
        CliCommand::Fsck { options, settings } => return cli::fsck::run(&settings.load(None)?, options),
        CliCommand::ImportGo { options, settings } => {
            return cli::import_go::run(&settings.load(None)?, &options);
        }
        CliCommand::Scrub { options, settings } => return cli::scrub::run(&settings.load(None)?, options),
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let cli = Cli::from_arg_matches(&grouped_command().get_matches()).unwrap_or_else(|error| error.exit());
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            cli::print_error(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_one_group() {
        let command = Cli::command();
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        let mut all: Vec<_> = shown.map(Command::get_name).collect();
        let mut grouped: Vec<_> =
            COMMAND_GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        all.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(all, grouped);
    }
}
