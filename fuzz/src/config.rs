//! Configurations. An input is a configuration file; lines after `# environment` are environment
//! variables.

use osproxy::config::{Config, ConfigOverrides, read};
use serde_json::Value;

/// Environment variables follow this line.
const ENVIRONMENT: &str = "\n# environment\n";
/// Names of settings that contain secrets.
const SECRETS: [&str; 13] = [
    "secret",
    "password",
    "url",
    "access_key_id",
    "secret_access_key",
    "access_key_secret",
    "session_token",
    "secret_id",
    "secret_key",
    "appid",
    "proxy",
    // Misspelled names.
    "passwrd",
    "secrte",
];
/// Text that occurs in the secrets in `corpus/`.
const MARK: &str = "hush";

/// A configuration is either rejected with reasons, or all its values are within bounds. No message
/// shows a secret.
pub(crate) fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    // Settings name files to read: these files never end, or differ between machines.
    if ["/dev", "/proc", "/sys"].iter().any(|folder| text.contains(folder)) {
        return;
    }
    let (file, variables) = text.split_once(ENVIRONMENT).unwrap_or((text, ""));
    let variables: Vec<_> = variables.lines().filter_map(|line| line.split_once('=')).collect();
    check_one(file, &variables);
    // If one variable is rejected, a wrong value of another that was accepted goes unnoticed. So
    // each variable is also checked alone.
    for variable in &variables {
        check_one("", &[*variable]);
    }
}

fn check_one(file: &str, variables: &[(&str, &str)]) {
    let hidden = hidden(file, variables);
    let owned = |(name, value): &(&str, &str)| (format!("OSPROXY__{name}"), (*value).to_owned());
    match read(file, variables.iter().map(owned), ConfigOverrides::default()) {
        Ok(loaded) => {
            let told = format!("{:?} {:?}", loaded.config, loaded.warnings);
            assert!(!hidden || !told.contains(MARK), "{told}");
            within_bounds(&loaded.config);
        }
        Err(refused) => {
            let told = refused.to_string();
            assert!(told.lines().count() > 1, "{told}");
            assert!(!hidden || !told.contains(MARK), "{told}");
        }
    }
}

/// Whether the mark occurs only in secrets, so that it must not be shown.
fn hidden(file: &str, variables: &[(&str, &str)]) -> bool {
    let is_secret = |name: &str| SECRETS.contains(&name.to_ascii_lowercase().as_str());
    let in_variables = variables.iter().all(|(name, value)| {
        let setting = name.rsplit("__").next().unwrap_or_default();
        // Messages show names in lower case: `S` + `HUSH` + `UTDOWN` contains the mark.
        !name.to_ascii_lowercase().contains(MARK)
            && (is_secret(setting) && name.contains("__") || !value.contains(MARK))
    });
    let options = serde_saphyr::options! { with_snippet: false };
    let in_file = match serde_saphyr::from_str_with_options::<Value>(file, options) {
        Ok(tree) => in_tree(&tree, 0),
        Err(_) => in_lines(file),
    };
    in_variables && in_file
}

/// Whether the mark occurs only in secrets, in a file that parses: below the top level, under the
/// name of a secret.
fn in_tree(node: &Value, depth: usize) -> bool {
    match node {
        Value::Object(map) => map.iter().all(|(name, node)| {
            let is_secret = depth > 0 && SECRETS.contains(&name.as_str()) && !node.is_object();
            !name.contains(MARK) && (is_secret && !node.is_array() || in_tree(node, depth + 1))
        }),
        Value::Array(list) => list.iter().all(|node| in_tree(node, depth)),
        Value::String(text) => !text.contains(MARK),
        _ => true,
    }
}

/// Whether the mark occurs only in secrets, in a file that does not parse: after the name of a
/// secret and a colon, up to the end of the value.
fn in_lines(file: &str) -> bool {
    file.match_indices(MARK).all(|(at, _)| {
        let line = file[..at].rsplit('\n').next().unwrap_or_default();
        let start = line.rfind(": ").map_or((line, None), |colon| (&line[..colon], Some(&line[colon + 2..])));
        let (before, Some(value)) = start else { return false };
        let name = before.rsplit([' ', '{', ',']).next().unwrap_or_default();
        SECRETS.contains(&name) && !value.contains(['{', '}', '[', ']', ',', '#'])
    })
}

/// Checks the ranges of the settings of an accepted configuration.
fn within_bounds(config: &Config) {
    const DAY: u64 = 24 * 60 * 60;
    let (server, uploads, tasks, stores) = (&config.server, &config.uploads, &config.tasks, &config.stores);
    for (name, value, least, most) in [
        ("uploads.max_size", uploads.max_size, 1, u64::MAX >> 1),
        ("uploads.max_part_size", uploads.max_part_size, 1, u64::MAX >> 1),
        ("uploads.max_parts", uploads.max_parts.into(), 1, 10_000),
        ("uploads.expired_retention", uploads.expired_retention, 0, 3650 * DAY),
        ("server.drain_delay", server.drain_delay.unwrap_or(0), 0, DAY),
        ("server.shutdown_grace", server.shutdown_grace, 0, DAY),
        ("server.header_timeout", server.header_timeout, 1, DAY),
        ("server.body_timeout", server.body_timeout, 1, DAY),
        ("server.write_timeout", server.write_timeout, 1, DAY),
        ("server.idle_timeout", server.idle_timeout, 1, DAY),
        ("server.min_rate_window", server.min_rate_window, 1, DAY),
        ("server.max_header_bytes", server.max_header_bytes.into(), 4 << 10, 1 << 20),
        ("server.max_connections", server.max_connections.into(), 1, u64::MAX),
        ("tasks.max_attempts", tasks.max_attempts.into(), 1, 1000),
        ("tasks.lease", tasks.lease, 1, DAY),
        ("tasks.poll_interval", tasks.poll_interval, 1, DAY),
        ("tasks.min_backoff", tasks.min_backoff, 1, DAY),
        ("tasks.max_backoff", tasks.max_backoff, 1, DAY),
        ("stores.timeout", stores.timeout, 1, 3600),
        ("stores.max_attempts", stores.max_attempts.into(), 1, 20),
        ("stores.max_transfers", stores.max_transfers, 8, 1 << 20),
        ("links.max_lifetime", config.links.max_lifetime, 1, 36_500 * DAY),
        ("cors.max_age", config.cors.max_age, 0, DAY),
        ("cluster.heartbeat", config.cluster.heartbeat, 1, DAY),
        ("cluster.worker_lease", config.cluster.worker_lease, 1, DAY),
        ("cluster.forward_timeout", config.cluster.forward_timeout, 1, DAY),
        ("database.max_open_conns", config.database.max_open_conns.into(), 1, 10_000),
        ("database.timeout", config.database.timeout, 1, 600),
        ("database.cache_entries", config.database.cache_entries, 0, 10_000_000),
    ] {
        assert!((least..=most).contains(&value), "{name} is {value}");
    }
    assert!(config.listen_address().is_ok() && config.admin.listen_address().is_ok());
    assert!(config.database_location().is_ok() && config.redis.settings().is_ok());
    assert!(config.cluster.secret().is_ok_and(|secret| secret.is_none_or(|secret| secret.len() >= 16)));
    assert!(!config.stores().is_empty());
    for key in &config.links.keys {
        assert!(key.secret().is_ok_and(|secret| secret.len() >= 16));
    }
}
