//! Settings of osproxy. Sources, from highest to lowest priority: flags, environment variables, the
//! configuration file, defaults. All settings are checked before anything starts.

mod admin;
mod app;
mod auth;
mod cluster;
mod cors;
mod cos;
mod database;
mod events;
mod grpc;
mod limits;
mod links;
mod local;
mod log;
mod oss;
mod processing;
mod quantity;
mod redis;
mod s3;
mod s3_api;
mod secret;
mod server;
mod stores;
mod tasks;
mod telemetry;
mod tls;
mod uploads;
mod value;
mod webhooks;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

pub use admin::AdminSection;
pub use app::AppSection;
pub use auth::{AuthMode, AuthSection};
pub use cluster::ClusterSection;
pub use cors::{ANY, CorsSection};
pub use cos::CosSection;
pub use database::{DatabaseSection, Driver, SslMode};
pub use events::EventsSection;
pub use grpc::GrpcSection;
pub use limits::LimitsSection;
pub use links::{LinkKeySection, LinksSection};
pub use local::LocalSection;
pub use log::{LogFormat, LogLevel, LogSection};
pub use osproxy_types::secret::Secret;
pub use oss::OssSection;
pub use processing::{InfectedChoice, OnErrorChoice, PassOrReject, StepName, StepSection};
pub use redis::{RedisPort, RedisSection, SentinelSection};
pub use s3::S3Section;
pub use s3_api::{MISSING_MASTER_KEY, S3ApiSection, parse_master_keys};
pub use server::ServerSection;
pub use stores::{StoreDescription, StoreKind, StoresSection};
pub use tasks::TasksSection;
pub use telemetry::TelemetrySection;
pub use tls::TlsSection;
pub use uploads::UploadsSection;
pub use webhooks::{WebhookEndpointSection, WebhooksSection};

use osproxy_meta::DatabaseLocation;
use value::{Findings, RawValue, SettingValue, section};

/// Prefix of environment variables that set settings, such as `OSPROXY__LOG__LEVEL=debug`.
const ENV_PREFIX: &str = "OSPROXY__";

/// Environment variable with the path of the configuration file. Containers and systemd units can
/// set it once for all subcommands.
const FILE_VARIABLE: &str = "OSPROXY_CONFIG";

section! {
    /// The whole configuration. The defaults alone are complete and safe.
    Config {
        /// Folder for all data that osproxy keeps on this machine.
        data_dir: PathBuf = PathBuf::from("osproxy-data"),
        /// A listener for operators.
        admin: AdminSection = AdminSection::default(),
        /// The general section of the Go program. Only `port` is used.
        app: AppSection = AppSection::default(),
        /// Who may use the service.
        auth: AuthSection = AuthSection::default(),
        /// How the nodes of a cluster reach and recognise each other.
        cluster: ClusterSection = ClusterSection::default(),
        /// Which web pages may call the service from a browser.
        cors: CorsSection = CorsSection::default(),
        /// Objects in Tencent COS.
        cos: CosSection = CosSection::default(),
        /// Where metadata is stored.
        database: DatabaseSection = DatabaseSection::default(),
        /// What happened to files.
        events: EventsSection = EventsSection::default(),
        /// How much the service does at the same time.
        limits: LimitsSection = LimitsSection::default(),
        /// Signed links.
        links: LinksSection = LinksSection::default(),
        /// Objects on the local disk.
        local: LocalSection = LocalSection::default(),
        /// Where gRPC is served.
        grpc: GrpcSection = GrpcSection::default(),
        /// Log output.
        log: LogSection = LogSection::default(),
        /// Objects in an S3-compatible store. The Go program uses this name for `s3`.
        minio: S3Section = S3Section::default(),
        /// Objects in Aliyun OSS.
        oss: OssSection = OssSection::default(),
        /// Steps that look at the content of files before they become readable, or after that.
        processing: Vec<StepSection> = Vec::new(),
        /// Coordination between the nodes of a cluster.
        redis: RedisSection = RedisSection::default(),
        /// Objects in an S3-compatible store.
        s3: S3Section = S3Section::default(),
        /// A listener for clients of S3.
        s3_api: S3ApiSection = S3ApiSection::default(),
        /// The HTTP listener.
        server: ServerSection = ServerSection::default(),
        /// Which store receives new files, and how remote stores are accessed.
        stores: StoresSection = StoresSection::default(),
        /// Background tasks.
        tasks: TasksSection = TasksSection::default(),
        /// Export of traces.
        telemetry: TelemetrySection = TelemetrySection::default(),
        /// TLS for clients.
        tls: TlsSection = TlsSection::default(),
        /// Limits and verification of uploads.
        uploads: UploadsSection = UploadsSection::default(),
        /// Events that are sent to endpoints of applications.
        webhooks: WebhooksSection = WebhooksSection::default(),
    }
    ignored []
}

/// Settings from command-line flags, which override all others.
#[derive(Debug, Default)]
pub struct ConfigOverrides {
    /// `--listen`.
    pub listen: Option<String>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
}

/// The error for an invalid configuration. Contains all problems that were found.
#[derive(Debug)]
pub struct InvalidConfig(Vec<String>);

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid configuration:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for InvalidConfig {}

/// A valid configuration and its warnings.
#[derive(Debug)]
pub struct LoadedConfig {
    /// The settings.
    pub config: Config,
    /// One sentence for each setting that is accepted but has an old name or no effect.
    pub warnings: Vec<String>,
}

/// Reads the settings from a file, the environment and `overrides`, and checks them. If `file` is
/// `None`, reads the file that `OSPROXY_CONFIG` names, if any. Fails with all problems that were
/// found. Blocks: call this before the runtime starts.
pub fn load(file: Option<&Path>, overrides: ConfigOverrides) -> Result<LoadedConfig, InvalidConfig> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place where settings come in")]
    let named = std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty());
    let text = match file.or(named.as_deref().map(Path::new)) {
        #[expect(clippy::disallowed_methods, reason = "before the reactor runs")]
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| InvalidConfig(vec![format!("{}: {error}", path.display())]))?,
        None => String::new(),
    };
    #[expect(clippy::disallowed_methods, reason = "this is the one place where settings come in")]
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        Some((name, value.to_string_lossy().into_owned()))
    });
    read(&text, environment, overrides)
}

/// Like [`load`], but takes the text of the file and the environment as arguments.
pub fn read(
    text: &str,
    environment: impl Iterator<Item = (String, String)>,
    overrides: ConfigOverrides,
) -> Result<LoadedConfig, InvalidConfig> {
    let blank = text.lines().all(|line| line.trim_start().starts_with('#') || line.trim().is_empty());
    let mut tree = if blank { RawValue::Map(BTreeMap::new()) } else { parse(text)? };
    for (name, value) in environment {
        if let Some(path) = name.strip_prefix(ENV_PREFIX) {
            let path: Vec<_> = path.split("__").map(str::to_ascii_lowercase).collect();
            tree.set(&path, RawValue::Untyped(value));
        }
    }
    let mut findings = Findings::default();
    database::flatten_go_list(&mut tree, &mut findings);
    let mut config = Config::read(tree, "", &mut findings).unwrap_or_default();
    if let Some(listen) = overrides.listen {
        config.server.listen = Some(listen);
    }
    if let Some(data_dir) = overrides.data_dir {
        config.data_dir = data_dir;
    }
    config.check(&mut findings);
    if findings.problems.is_empty() {
        Ok(LoadedConfig { config, warnings: findings.warnings })
    } else {
        Err(InvalidConfig(findings.problems))
    }
}

fn parse(text: &str) -> Result<RawValue, InvalidConfig> {
    // The lines around an error may contain secrets, so only its position is shown.
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| InvalidConfig(vec![error.to_string()]))
}

/// Parses an address and a port; `localhost` means 127.0.0.1.
fn parse_address(text: &str) -> Result<SocketAddr, std::net::AddrParseError> {
    text.replace("localhost:", "127.0.0.1:").parse()
}

impl Config {
    /// The listen address: `server.listen`, or `app.port` on 127.0.0.1.
    pub fn listen_address(&self) -> Result<SocketAddr, std::net::AddrParseError> {
        match &self.server.listen {
            Some(listen) => parse_address(listen),
            None => Ok((IpAddr::V4(Ipv4Addr::LOCALHOST), self.app.port).into()),
        }
    }

    /// Location of the metadata: a database server or a file. The default is the file `osproxy.db`
    /// in the data folder. Fails with a message if settings conflict or a secret cannot be read.
    /// Blocks while it reads secrets from files.
    pub fn database_location(&self) -> Result<DatabaseLocation, String> {
        let default = || self.data_dir.join("osproxy.db");
        Ok(match self.database.server().map_err(|problems| problems.join("; "))? {
            Some(server) => DatabaseLocation::Server(server),
            None => DatabaseLocation::File(self.database.path.clone().unwrap_or_else(default)),
        })
    }

    /// The root folder of the `local` backend.
    pub fn object_folder(&self) -> PathBuf {
        let default = || self.data_dir.join("objects");
        self.local.root.clone().unwrap_or_else(default)
    }

    /// Checks ranges and combinations of settings.
    fn check(&self, findings: &mut Findings) {
        if self.listen_address().is_err() {
            findings.problem("server.listen", "must be an address and a port, such as 127.0.0.1:8888");
        }
        self.admin.check(findings);
        self.cors.check(findings);
        self.check_stores(findings);
        self.cluster.check(findings);
        self.local.check(findings);
        self.database.check(findings);
        self.redis.check(findings);
        if self.redis.settings().is_ok_and(|redis| redis.is_some())
            && self.database.server().is_ok_and(|server| server.is_none())
        {
            findings.warnings.push("redis: has no effect, because sqlite supports only a single node".into());
        }
        self.uploads.check(findings);
        self.webhooks.check(findings);
        self.check_processing(findings);
        self.tasks.check(findings);
        self.events.check(findings);
        self.telemetry.check(findings);
        self.limits.check(findings);
        self.links.check(findings);
        self.server.check(findings);
        self.tls.check("tls", findings);
        self.grpc.check(findings);
        let has_server = self.database.server().is_ok_and(|server| server.is_some());
        self.s3_api.check(has_server, findings);
        if self.tls.is_enabled() && self.is_clustered() {
            findings.problem(
                "tls",
                "nodes of a cluster forward requests over plain HTTP on the same port; \
                                 terminate TLS at the load balancer",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let loaded = read(text, environment.iter().map(owned), ConfigOverrides::default());
        loaded.map(|loaded| loaded.config).map_err(|error| error.0)
    }

    #[test]
    fn the_annotated_file_says_exactly_the_defaults() {
        let text = include_str!("../../../../config/config.yaml");
        assert_eq!(parse(text, &[]).unwrap(), Config::default());
        assert_eq!(parse("", &[]).unwrap(), Config::default());
        // The file contains every setting by name.
        let debug = format!("{:?}", Config::default());
        let names = debug.split([' ', '{', ',']).filter_map(|word| word.strip_suffix(':'));
        let mut count = 0;
        for name in names {
            assert!(text.contains(&format!("{name}:")), "{name} is missing in config/config.yaml");
            count += 1;
        }
        assert!(count > 15, "only {count} settings were found");
    }

    #[test]
    fn the_environment_wins_over_the_file_and_flags_win_over_both() {
        let environment = [("OSPROXY__LOG__LEVEL", "debug"), ("OSPROXY__LOCAL__FSYNC", "false")];
        let config = parse("log: {level: warn}\napp: {port: 1234}", &environment).unwrap();
        assert_eq!(config.log.level, LogLevel::Debug);
        assert!(!config.local.fsync);
        assert_eq!(config.listen_address().unwrap().to_string(), "127.0.0.1:1234");
        let overrides = ConfigOverrides { listen: Some("[::1]:9".into()), data_dir: Some("/d".into()) };
        let config = read("app: {port: 1}", std::iter::empty(), overrides).unwrap().config;
        assert_eq!(config.listen_address().unwrap().to_string(), "[::1]:9");
        let Ok(DatabaseLocation::File(database)) = config.database_location() else {
            panic!("no server is configured");
        };
        assert_eq!(database, Path::new("/d/osproxy.db"));
    }

    #[test]
    fn all_problems_are_told_at_once_with_the_nearest_known_name() {
        let text = "log: {levle: info, format: xml}\nsever: {}\nuploads: {max_size: -1, max_parts: -1}\n\
                    server: {max_connections: 1.5}\nstores: {timeout: 1.5}\n\
                    links: {keys: [{id: a, secret: short}]}\napp: {port: 70000}\nlocal: {fsync: 1}";
        let problems = parse(text, &[("OSPROXY__AUTH__MOED", "open")]).unwrap_err();
        for expected in [
            "log.levle: unknown setting, did you mean `level`?",
            "log.format: must be one of text, json, not \"xml\"",
            "sever: unknown setting, did you mean `server`?",
            "uploads.max_size: must be a size such as 8MiB or 1GB, or a whole number of bytes, not -1",
            "uploads.max_parts: must be a non-negative whole number, not -1",
            "server.max_connections: must be a non-negative whole number, not 1.5",
            "stores.timeout: must be a duration such as 30s, 5m or 1h, or a whole number of seconds, not 1.5",
            "links.keys[0]: the secret must have at least 16 bytes",
            "app.port: 70000 is above 65535",
            "local.fsync: must be true or false, not a number",
            "auth.moed: unknown setting, did you mean `mode`?",
        ] {
            assert!(
                problems.iter().any(|problem| problem.starts_with(expected)),
                "{expected}\nnot in {problems:#?}"
            );
        }
        assert_eq!(problems.len(), 11, "{problems:#?}");
    }

    #[test]
    fn any_address_may_be_listened_on() {
        // Listening on an address that other machines reach is no risk by itself: clients need a
        // key by default.
        for listen in ["0.0.0.0:80", "'localhost:80'", "'[::]:80'"] {
            assert!(parse(&format!("server: {{listen: {listen}}}"), &[]).is_ok(), "{listen}");
        }
    }

    #[test]
    fn the_go_programs_general_sections_are_understood() {
        let text = "app: {env: prod, port: 8889, app_name: osproxy, app_url: 'http://127.0.0.1'}\n\
                    log: {level: info, root_dir: ./logs, filename: app.log, format: json, show_line: true, \
                    max_backups: 3, max_size: 500, max_age: 28, compress: true, enable_file: false}\n\
                    local: {enabled: true}";
        let loaded = read(text, std::iter::empty(), ConfigOverrides::default()).unwrap();
        assert_eq!(loaded.config.app.port, 8889);
        assert_eq!(loaded.config.log.format, LogFormat::Json);
        assert_eq!(loaded.warnings.len(), 11, "{:#?}", loaded.warnings);
    }

    #[test]
    fn old_names_of_settings_still_work_with_a_warning() {
        let load = |text: &str, environment: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            read(text, environment.iter().map(owned), ConfigOverrides::default())
        };
        for (section, old, new, value) in [
            ("database", "cache_seconds", "cache_max_age", "7"),
            ("limits", "max_backlog", "max_pending_writes", "7"),
            ("limits", "max_buffer", "max_buffer_memory", "32MiB"),
            ("links", "max_expire", "max_lifetime", "7h"),
            ("links", "round_secs", "rounding_window", "7"),
            ("local", "keep_free", "min_free_space", "7GB"),
            ("local", "reserve_percent", "max_reserved_percent", "7"),
            ("local", "reserve_secs", "reservation_timeout", "7"),
            ("local", "reserve_tenant_percent", "max_reserved_tenant_percent", "7"),
            ("server", "rate_window", "min_rate_window", "7"),
            ("stores", "attempts", "max_attempts", "7"),
            ("stores", "ca", "ca_file", "ca.pem"),
            ("stores", "make_buckets", "create_buckets", "false"),
            ("tasks", "first_retry", "min_backoff", "7"),
            ("tasks", "max_retry", "max_backoff", "7"),
            ("uploads", "keep_lapsed", "expired_retention", "7"),
            ("uploads", "prove_possession", "require_possession_proof", "true"),
            ("uploads", "verify_up_to", "max_inline_verification_size", "7"),
        ] {
            let with_new = load(&format!("{section}: {{{new}: {value}}}"), &[]).unwrap();
            assert_ne!(with_new.config, Config::default(), "{new}");
            assert_eq!(with_new.warnings, [""; 0]);
            let variable = format!("OSPROXY__{section}__{old}").to_uppercase();
            for with_old in [
                load(&format!("{section}: {{{old}: {value}}}"), &[]).unwrap(),
                load("", &[(&variable, value)]).unwrap(),
            ] {
                assert_eq!(with_old.config, with_new.config, "{old}");
                assert_eq!(with_old.warnings, [format!("`{section}.{old}` is now called `{section}.{new}`")]);
            }
            for (text, environment) in [
                (format!("{section}: {{{old}: {value}, {new}: {value}}}"), vec![]),
                (format!("{section}: {{{new}: {value}}}"), vec![(variable.as_str(), value)]),
            ] {
                let problems = load(&text, &environment).unwrap_err().0;
                let name = format!("{section}.{new}");
                let expected = format!(
                    "{section}.{old}: is an old name of `{name}`, and `{name}` is set; remove one of them"
                );
                assert_eq!(problems, [expected]);
            }
        }
        let problems = parse("uploads: {keep_lapsed: never}", &[]).unwrap_err();
        assert!(problems[0].starts_with("uploads.keep_lapsed: must be a duration"), "{problems:?}");
    }

    #[test]
    fn errors_do_not_show_the_lines_around_them() {
        for text in [
            "links:\n  keys:\n    - id: a\n      secret: hush-hush-hush-hush\n   x: [",
            "links: {keys: [{id: a, secret: hush-hush-hush-hush, secret: hush-hush-hush-hush}]}",
            "links: {keys: [{id: a, secret: {hush: hush}}]}",
        ] {
            let problems = parse(text, &[]).unwrap_err();
            assert!(problems.iter().all(|problem| !problem.contains("hush")), "{problems:?}");
        }
    }

    #[test]
    fn absurd_numbers_are_refused() {
        let text = "links: {max_expire: 9223372036854775807}\n\
                    server: {header_timeout: 18446744073709551615, body_timeout: 0, max_connections: 0}";
        assert_eq!(parse(text, &[]).unwrap_err().len(), 4);
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for text in ["[]", "just text", "log: [", "log: {level: info}\nlog: {level: warn}", "log: 1"] {
            assert!(parse(text, &[]).is_err(), "{text}");
        }
    }
}
