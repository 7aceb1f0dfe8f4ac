//! The rules for the structure of the code, checked against the code.

use std::path::{Path, PathBuf};

use crate::support::assert_is_a_test;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rust_files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// Imports that a module of `crates/osproxy/src` must not have.
const FORBIDDEN: [(&str, &[&str]); 18] = [
    (
        "uid.rs",
        &[
            "app",
            "cli",
            "cluster",
            "config",
            "coord",
            "grpc",
            "http",
            "link",
            "meta",
            "ops",
            "tasks",
            "telemetry",
        ],
    ),
    (
        "link.rs",
        &["app", "cli", "config", "coord", "grpc", "http", "meta", "ops", "tasks", "telemetry", "uid"],
    ),
    (
        "content_type.rs",
        &[
            "app",
            "cli",
            "config",
            "coord",
            "grpc",
            "http",
            "link",
            "meta",
            "ops",
            "tasks",
            "telemetry",
            "uid",
        ],
    ),
    (
        "error.rs",
        &[
            "app",
            "cli",
            "config",
            "coord",
            "grpc",
            "http",
            "link",
            "meta",
            "ops",
            "tasks",
            "telemetry",
            "uid",
        ],
    ),
    ("telemetry.rs", &["app", "cli", "coord", "grpc", "http", "link", "meta", "ops", "tasks", "uid"]),
    (
        "metrics",
        &[
            "app",
            "cli",
            "cluster",
            "config",
            "coord",
            "grpc",
            "http",
            "link",
            "meta",
            "ops",
            "tasks",
            "telemetry",
            "uid",
        ],
    ),
    (
        "trace_context.rs",
        &[
            "app", "cli", "cluster", "config", "coord", "grpc", "http", "link", "meta", "metrics", "ops",
            "tasks", "uid",
        ],
    ),
    (
        "idle_timeout.rs",
        &["app", "cli", "cluster", "config", "coord", "grpc", "http", "link", "meta", "ops", "tasks", "uid"],
    ),
    (
        "cluster",
        &[
            "app",
            "cli",
            "config",
            "coord",
            "grpc",
            "http",
            "link",
            "meta",
            "ops",
            "tasks",
            "telemetry",
            "uid",
        ],
    ),
    ("config/", &["app", "cli", "coord", "grpc", "link", "meta", "ops", "tasks", "telemetry", "uid"]),
    ("coord/", &["app", "cli", "grpc", "http", "link", "meta", "ops", "tasks", "telemetry"]),
    ("meta/", &["app", "cli", "coord", "grpc", "http", "link", "ops", "tasks", "telemetry"]),
    ("app", &["cli", "grpc", "http", "ops", "tasks", "telemetry"]),
    ("tasks/", &["cli", "coord", "grpc", "http", "ops", "telemetry"]),
    ("ops/", &["cli", "config", "coord", "grpc", "http", "telemetry"]),
    ("http/", &["cli", "config", "coord", "grpc", "meta", "tasks", "telemetry"]),
    ("grpc/", &["cli", "config", "coord", "http", "meta", "tasks", "telemetry"]),
    ("cli/", &[]),
];

/// Whether the text imports a module of this crate: as `crate::module`, or within `use crate::{…}`.
fn imports(text: &str, module: &str) -> bool {
    let direct = format!("crate::{module}");
    let ends = |rest: &str| !rest.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_');
    text.match_indices(&direct).any(|(at, _)| ends(&text[at + direct.len()..]))
        || text.split("use crate::{").skip(1).any(|group| first_segments(group).any(|name| name == module))
}

/// The first path segments of a group of imports, up to its closing brace.
fn first_segments(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let end = group.find(|letter| {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        depth < 0
    });
    let mut depth = 0;
    let outer_comma = move |letter| {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        letter == ',' && depth == 0
    };
    let items = group[..end.unwrap_or(group.len())].split(outer_comma);
    items.map(|item| item.split("::").next().unwrap_or_default().trim())
}

#[test]
fn the_search_for_imports_finds_them() {
    for text in
        ["use crate::meta::Meta;", "crate::meta::x()", "use crate::{\n    app::App,\n    meta::{A, B},\n};"]
    {
        assert!(imports(text, "meta"), "{text}");
    }
    for text in ["use crate::metadata::X;", "use super::meta;", "use crate::{app::{meta, App}, link};"] {
        assert!(!imports(text, "meta"), "{text}");
    }
    assert!(imports("use crate::{Error, Result, app::App, ops};", "ops"));
}

#[test]
fn imports_run_one_way() {
    let source = root().join("crates/osproxy/src");
    let mut checked = 0;
    for (path, text) in rust_files(&source) {
        let within = path.strip_prefix(&format!("{}/", source.display())).unwrap();
        for (place, forbidden) in FORBIDDEN {
            if within.starts_with(place) {
                checked += 1;
                for module in forbidden {
                    assert!(!imports(&text, module), "{within} must not import {module}");
                }
            }
        }
        let sql = ["sea_orm", "sea_query", "SELECT "].iter().any(|word| text.contains(word));
        assert!(!sql || within.starts_with("meta/") || within == "error.rs", "{within} uses SQL");
        let anyhow = text.contains("anyhow");
        assert!(!anyhow || within.starts_with("cli/") || within == "main.rs", "{within} uses anyhow");
        if within.starts_with("http/") || within.starts_with("grpc/") {
            assert!(!text.contains("osproxy_storage"), "{within} bypasses the operations");
        }
    }
    assert!(checked > 40, "only {checked} files were checked");
}

#[test]
fn every_backend_is_in_the_list() {
    let folder = root().join("crates/osproxy-storage/src/backends");
    let list = std::fs::read_to_string(folder.join("mod.rs")).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(name) = name.strip_suffix(".rs").filter(|name| *name != "mod") {
            assert!(list.contains(&format!("mod {name};")), "{name} is missing in backends/mod.rs");
        }
    }
}

#[test]
fn every_task_handler_is_in_the_list() {
    let folder = root().join("crates/osproxy/src/tasks/handlers");
    let list = std::fs::read_to_string(folder.join("mod.rs")).unwrap();
    let mut handlers = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(name) = name.strip_suffix(".rs").filter(|name| *name != "mod") {
            handlers += 1;
            assert!(list.contains(&format!(".with({name}::")), "{name} is missing in tasks/handlers/mod.rs");
        }
    }
    assert_eq!(list.matches(".with(").count(), handlers);
}

#[test]
fn every_operation_has_its_row_its_test_and_its_adapter() {
    let architecture = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let source = root().join("crates/osproxy/src");
    for entry in std::fs::read_dir(source.join("ops")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let name = file.strip_suffix(".rs").unwrap();
        if name == "mod" {
            continue;
        }
        assert!(architecture.contains(&format!("`{name}`")), "{name} has no row in docs/ARCHITECTURE.md");
        let adapters = ["v0", "v1"].map(|version| source.join("http").join(version).join(&file));
        assert!(adapters.iter().any(|adapter| adapter.exists()), "{name} has no adapter");
        let test = root().join("crates/osproxy/tests/it").join(&file);
        assert!(test.exists(), "{name} has no test file");
    }
}

/// Modules that the adapters of an API version share, and which are not adapters themselves.
const SHARED: [&str; 16] = [
    "body",
    "content",
    "digest",
    "envelope",
    "form",
    "idempotency",
    "json",
    "metadata",
    "mod",
    "pagination",
    "path",
    "problem",
    "query",
    "render",
    "time_format",
    "upload_link",
];

#[test]
fn every_adapter_has_its_operation_and_its_route() {
    let source = root().join("crates/osproxy/src");
    let routes = std::fs::read_to_string(source.join("http/mod.rs")).unwrap();
    for version in ["v0", "v1"] {
        for entry in std::fs::read_dir(source.join("http").join(version)).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            let name = file.strip_suffix(".rs").unwrap();
            if !SHARED.contains(&name) {
                assert!(source.join("ops").join(&file).exists(), "{version}/{name} adapts no operation");
                let handler = format!("{version}::{name}::");
                assert!(routes.contains(&handler), "{version}/{name} has no route in http/mod.rs");
            }
        }
    }
}

#[test]
fn every_call_of_grpc_stands_beside_its_route() {
    let page = |path| std::fs::read_to_string(root().join(path)).unwrap();
    let (guide, architecture) = (page("docs/guides/grpc.md"), page("docs/ARCHITECTURE.md"));
    let mut calls = 0;
    for service in ["FileService", "TaskService", "ClusterService"] {
        for method in osproxy_api::grpc::methods(&format!("osproxy.v1.{service}")) {
            let call = format!("`{service}.{}`", method.path.rsplit('/').next().unwrap());
            assert!(guide.contains(&format!(" | {call}")), "{call} has no row in docs/guides/grpc.md");
            assert!(architecture.contains(&call), "{call} is missing in docs/ARCHITECTURE.md");
            calls += 1;
        }
    }
    assert_eq!(calls, 18);
}

#[test]
fn every_test_that_the_security_page_names_is_there() {
    let page = std::fs::read_to_string(root().join("docs/security.md")).unwrap();
    let quoted = page.split('`').skip(1).step_by(2);
    let is_name = |name: &&str| {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_:".contains(&byte);
        name.contains("::") && name.bytes().all(is_plain) && *name != "file::test"
    };
    let names: Vec<_> = quoted.filter(is_name).collect();
    assert!(names.len() > 50, "{}", names.len());
    for name in names {
        assert_is_a_test(name);
    }
}
