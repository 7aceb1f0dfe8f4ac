//! All pages of the documentation: what can run in them is run, and their links have targets.

use std::{path::Path, process::Stdio};

use osproxy_api::ErrorCode;
use serde_json::Value;
use tokio::process::Command;

use crate::support::{Certificate, Page, Service, assert_is_a_test, connect, host_and_port, spawn_failing};

/// Languages of blocks that are not run: terminal sessions, text, diagrams and fragments.
/// Configuration of other programs is marked behind the language, as in `yaml prometheus`.
const SHOWN: [&str; 4] = ["console", "mermaid", "rust,ignore", "text"];

/// Languages whose blocks, on all pages, are checked by one test.
const EVERYWHERE: [(&str, &str); 2] =
    [("json", "documentation::every_json_is_one"), ("yaml", "documentation::every_configuration_is_one")];

/// The test that runs all blocks of a language on a page. `task-handlers.md` and `processing.md` are
/// doctests of the crate.
const RUN: [(&str, &str, &str); 41] = [
    ("README.md", "sh", "readme::the_quick_start_works_line_by_line"),
    ("docs/guides/access.md", "sh", "documentation::the_commands_about_access_work"),
    ("docs/guides/api-v0.md", "sh", "documentation::api_v0_works_line_by_line"),
    ("docs/guides/api-v1.md", "sh", "documentation::the_tour_of_api_v1_works_line_by_line"),
    ("docs/guides/backend.md", "go", "examples::the_go_of_the_back_end_guide_sends_and_reads_a_file"),
    ("docs/guides/backend.md", "java", "examples::the_java_of_the_back_end_guide_sends_and_reads_a_file"),
    ("docs/guides/backend.md", "js", "examples::the_javascript_of_the_back_end_guide_sends_and_reads_a_file"),
    ("docs/guides/backend.md", "python", "examples::the_python_of_the_back_end_guide_sends_and_reads_a_file"),
    (
        "docs/guides/backend.md",
        "python",
        "examples::the_web_back_end_in_python_serves_the_pages_of_the_web_guide",
    ),
    ("docs/guides/backend.md", "sh", "examples::the_requests_of_the_back_end_guide_work_line_by_line"),
    ("docs/guides/databases.md", "sql", "documentation::the_databases_are_made_as_it_says"),
    ("docs/guides/edge.md", "nginx", "documentation::nginx_takes_what_is_shown_of_it"),
    ("docs/guides/getting-started.md", "sh", "readme::what_looks_after_it_works_line_by_line"),
    ("docs/guides/grpc.md", "python", "grpcio::the_guide_does_what_it_says"),
    ("docs/guides/grpc.md", "sh", "grpcio::the_guide_does_what_it_says"),
    ("docs/guides/mobile.md", "java", "examples::the_java_of_the_mobile_guide_sends_what_is_missing"),
    ("docs/guides/mobile.md", "sh", "examples::the_protocol_of_the_mobile_guide_works_line_by_line"),
    ("docs/guides/observability.md", "sh", "documentation::the_metrics_are_there"),
    (
        "docs/guides/operations.md",
        "sh",
        "backup::sqlite_and_local_disk_are_backed_up_and_restored_as_the_guide_says",
    ),
    ("docs/guides/operations.md", "sh", "documentation::the_commands_about_lost_keys_and_space_work"),
    ("docs/guides/rust-client.md", "rust", "client::the_program_of_the_guide_works"),
    ("docs/guides/s3-migration.md", "sh", "s3_api::clients::another_server_is_migrated_as_the_guide_says"),
    ("docs/guides/s3.md", "js", "s3_api::uppy::uppy_sends_files_by_urls_of_a_back_end"),
    ("docs/guides/s3.md", "js", "s3_api::uppy::uppy_sends_files_with_a_key"),
    ("docs/guides/s3.md", "sh", "s3_api::clients::the_commands_of_the_guide_work"),
    ("docs/guides/stores.md", "sh", "documentation::the_commands_about_stores_work"),
    ("docs/guides/uploaders.md", "js", "tus_clients::the_pages_of_the_guide_send_files"),
    (
        "docs/guides/uploaders.md",
        "js",
        "tus_clients::other_uploaders::filepond_goes_on_where_the_connection_broke",
    ),
    (
        "docs/guides/uploaders.md",
        "js",
        "tus_clients::other_uploaders::simple_uploader_continues_after_the_page_was_closed",
    ),
    (
        "docs/guides/uploaders.md",
        "js",
        "tus_clients::other_uploaders::vue_simple_uploader_continues_after_the_page_was_closed",
    ),
    (
        "docs/guides/uploaders.md",
        "js",
        "tus_clients::other_uploaders::webuploader_continues_after_the_page_was_closed",
    ),
    ("docs/guides/uploaders.md", "python", "tus_clients::the_program_of_the_guide_sends_a_file"),
    ("docs/guides/uploaders.md", "sh", "tus_clients::the_program_of_the_guide_sends_a_file"),
    ("docs/guides/web.md", "html", "examples::the_page_of_the_web_guide_goes_on_after_it_was_loaded_again"),
    (
        "docs/guides/web.md",
        "html",
        "examples::the_film_of_the_web_guide_goes_on_at_the_same_time_with_a_new_link",
    ),
    (
        "docs/guides/web.md",
        "javascript",
        "examples::what_the_web_guide_says_works_with_the_settings_that_it_has",
    ),
    ("docs/guides/web.md", "js", "examples::the_page_of_the_web_guide_goes_on_after_it_was_loaded_again"),
    ("docs/guides/webhooks.md", "js", "webhooks::client::the_receivers_of_the_guide_verify_messages"),
    ("docs/guides/webhooks.md", "python", "webhooks::client::the_receivers_of_the_guide_verify_messages"),
    ("docs/guides/webhooks.md", "rust", "webhooks::client::the_receiver_in_rust_verifies_messages"),
    ("docs/guides/webhooks.md", "sh", "webhooks::client::the_commands_of_the_guide_work"),
];

#[test]
fn every_block_is_run_or_only_shown() {
    for name in EVERYWHERE.iter().map(|(_, test)| test).chain(RUN.iter().map(|(_, _, test)| test)) {
        assert_is_a_test(name);
    }
    let mut run = 0;
    for page in Page::all() {
        for block in page.blocks() {
            let language = block.language.as_str();
            let (path, is_shown) = (page.path.as_str(), SHOWN.contains(&language) || language.contains(' '));
            let is_run = EVERYWHERE.iter().any(|(everywhere, _)| *everywhere == language)
                || RUN.iter().any(|(of, its, _)| (*of, *its) == (path, language))
                // It has the same blocks as its original: `readme::both_languages_say_the_same`.
                || path.ends_with(".zh-CN.md")
                || (["docs/guides/task-handlers.md", "docs/guides/processing.md"].contains(&path) && language == "rust");
            assert!(
                is_shown || is_run,
                "no test runs the `{language}` of {path}: add one, or call it `console` or `text`\n{}",
                block.text
            );
            run += usize::from(is_run);
        }
    }
    assert!(run > 40, "only {run} blocks are run");
    for (path, language, _) in RUN {
        Page::read(path).blocks_in(language);
    }
}

/// Runs the shell commands of a page, which must succeed, and returns their output.
async fn run(service: &Service, path: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = service.shell(folder.path(), &Page::read(path).joined_blocks("sh")).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[tokio::test]
async fn every_configuration_is_one() {
    let mut examples = 0;
    for page in Page::all() {
        for block in page.blocks().iter().filter(|block| block.language == "yaml") {
            let folder = tempfile::tempdir().unwrap();
            let [cert, key] = Certificate::new().write(folder.path());
            for (name, file) in [("cert.pem", &cert), ("grpc.pem", &cert), ("clients.pem", &cert)]
                .into_iter()
                .chain([("key.pem", &key), ("grpc.key", &key)])
            {
                if !folder.path().join(name).exists() {
                    std::fs::copy(file, folder.path().join(name)).unwrap();
                }
            }
            let text = block.text.replace("/etc/osproxy", folder.path().to_str().unwrap());
            std::fs::write(folder.path().join("config.yaml"), text).unwrap();
            let arguments = ["check-config", "--config", "config.yaml"];
            let (status, _, complaint) = spawn_failing(folder.path(), &[], &arguments).await;
            assert!(status.success(), "{}\n{}\n{complaint}", page.path, block.text);
            examples += 1;
        }
    }
    assert!(examples >= 15, "{examples}");
}

#[test]
fn every_json_is_one() {
    for page in Page::all() {
        for block in page.blocks().iter().filter(|block| block.language == "json") {
            if let Err(error) = serde_json::from_str::<Value>(&block.text) {
                panic!("{}: {error}\n{}", page.path, block.text);
            }
        }
    }
    let examples = Page::read("docs/guides/api-v1.md").blocks_in("json");
    let [upload, grant, challenge, bucket, link, event, problem] = &examples[..] else {
        panic!("{examples:?}")
    };
    serde_json::from_str::<osproxy_api::v1::CreateUploadRequest>(upload).unwrap();
    serde_json::from_str::<osproxy_api::v1::UploadGrant>(grant).unwrap();
    serde_json::from_str::<osproxy_api::v1::Challenge>(challenge).unwrap();
    serde_json::from_str::<osproxy_api::v1::BucketSettings>(bucket).unwrap();
    serde_json::from_str::<osproxy_api::v1::CreateLinkRequest>(link).unwrap();
    serde_json::from_str::<osproxy_api::v1::Event>(event).unwrap();
    serde_json::from_str::<osproxy_api::v1::Problem>(problem).unwrap();
}

#[tokio::test]
async fn api_v0_works_line_by_line() {
    let mut service = Service::start().await;
    let said = run(&service, "docs/guides/api-v0.md").await;
    assert_eq!(said.matches("identical\n").count(), 2, "{said}");
    assert!(said.contains("\n1000000\n") && said.contains("it broke\n"), "{said}");
    assert!(said.contains("\"data\":[1,2,4]}"), "{said}");
    // Links, two uploads, a link, the instant upload; three parts, the checkpoint, the two missing
    // parts, and the merge.
    assert_eq!(said.matches("{\"code\":0,\"message\":\"ok\"").count(), 12, "{said}");
    let uid = service.sql("SELECT uid FROM files WHERE name = 'film.mp4'").await.remove(0);
    service.wait_until_merged(&uid).await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn the_tour_of_api_v1_works_line_by_line() {
    let mut service = Service::start().await;
    let said = run(&service, "docs/guides/api-v1.md").await;
    for expected in [
        "\"name\":\"numbers.txt\",\"state\":\"stored\",\"size\":588895",
        "\"metadata\":{\"draft\":\"yes\",\"owner\":\"ann\"}",
        "\"metadata\":{\"owner\":\"ann\"}",
        "content-disposition: attachment; filename=\"report 1.txt\"",
        "repr-digest: ",
        "\n204 204 204 \n",
        "\"parts\":[1,2,3],\"received\":22888896",
        "\"metadata\":{\"from\":\"the tour\"}",
        "\nidentical\n",
        "idempotency-replayed: true",
        "\nthe same copy\n",
        "\"bytes_saved\":24066686",
        "\"kind\":\"sweep\"",
        "\n204\n",
        "\"code\":\"file_gone\"",
        "\"code\":\"file_not_found\"",
    ] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    // The second page is the last one.
    let page = said.lines().find(|line| line.starts_with("{\"files\"")).unwrap();
    assert!(page.contains("report 2.txt") && !page.contains("next_cursor"), "{page}");
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn the_commands_about_access_work() {
    let service = Service::start().await;
    let said = run(&service, "docs/guides/access.md").await;
    assert!(said.contains("{\"files\":[]}"), "{said}");
    assert!(said.contains("46.6 GiB"), "{said}");
    assert!(
        said.contains("/tus?grant=") && said.contains(" event-") && said.contains(" is revoked"),
        "{said}"
    );
}

#[tokio::test]
async fn the_metrics_are_there() {
    let service = Service::start().await;
    let said = run(&service, "docs/guides/observability.md").await;
    assert!(said.contains("osproxy_build_info{"), "{said}");
}

#[tokio::test]
async fn the_commands_about_stores_work() {
    let service = Service::start().await;
    std::fs::write(service.folder().join("config.yaml"), "").unwrap();
    let said = run(&service, "docs/guides/stores.md").await;
    assert!(said.lines().any(|line| serde_json::from_str::<Value>(line).is_ok()), "{said}");
}

#[tokio::test]
async fn the_commands_about_lost_keys_and_space_work() {
    let service = Service::start().await;
    service.store("x.bin", b"content").await;
    let page = Page::read("docs/guides/operations.md");
    let script = |heading: &str| page.section(heading).joined_blocks("sh");
    let script = script("Lost and leaked keys") + &script("Space used by tenants");
    let folder = tempfile::tempdir().unwrap();
    let output = service.shell(folder.path(), &script).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // The new keys work, and the old link key still verifies.
    let keys: Vec<_> = said.lines().filter(|line| line.starts_with("osk_")).collect();
    let [shop, admin] = keys[..] else { panic!("{said}") };
    assert_eq!(service.with_key(shop).v1_get("/files").await.status(), 200);
    assert_eq!(service.with_key(admin).v1_get("/stats").await.status(), 200);
    assert!(said.contains("  sign  ") && said.contains("  verify  "), "{said}");
    let usage = said.lines().find(|line| line.starts_with("default ")).unwrap();
    assert!(said.contains("USED (LOGICAL)") && usage.contains("524 B") && usage.contains("  7 B"), "{said}");
}

#[test]
fn every_error_has_its_row() {
    let page = Page::read("docs/guides/api-v1.md").text;
    let (_, table) = page.split_once("## Errors").unwrap();
    let mut told = Vec::new();
    for row in table.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let [_, status, codes, repeat, _] = row.split('|').collect::<Vec<_>>()[..] else { panic!("{row}") };
        for name in codes.split('`').skip(1).step_by(2) {
            let code = ErrorCode::named(name).unwrap();
            assert_eq!(code.v1_status(), status.trim().parse::<u16>().unwrap(), "{name}");
            assert_eq!(code.is_retryable(), repeat.starts_with(" yes"), "{name}");
            told.push(name);
        }
    }
    let source = Page::read("crates/osproxy-api/src/error_code.rs").text;
    let (_, codes) = source.split_once("\ncodes! {").unwrap();
    let (codes, _) = codes.split_once("\n}\n").unwrap();
    let names: Vec<_> = codes.lines().filter_map(|line| line.split('"').nth(1)).collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        assert!(told.contains(&name), "{name} has no row");
    }
}

/// The anchor of a heading in links.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    text.chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut followed = 0;
    for page in Page::all() {
        let folder = Path::new(&page.path).parent().unwrap();
        for link in page.links().iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                page.path.clone()
            } else {
                folder.join(path).to_str().unwrap().to_owned()
            };
            assert!(root.join(&target).exists(), "{link} in {} has no target", page.path);
            if !fragment.is_empty() {
                let headings = Page::read(&target).headings();
                let is_there = headings.iter().any(|heading| anchor(heading) == fragment);
                assert!(is_there, "{link} in {}: no such heading", page.path);
            }
            followed += 1;
        }
    }
    assert!(followed > 100, "{followed}");
}

#[tokio::test]
#[ignore = "needs nginx: just test-servers"]
async fn nginx_takes_what_is_shown_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let shown = Page::read("docs/guides/edge.md").joined_blocks("nginx");
    let text = format!(
        "pid nginx.pid;\nevents {{}}\nhttp {{\naccess_log off;\nserver {{\nlisten 127.0.0.1:1;\nlocation / {{\n{shown}\
         proxy_pass http://127.0.0.1:8888;\n}}\n}}\n}}\n"
    );
    std::fs::write(folder.path().join("nginx.conf"), text).unwrap();
    let mut nginx = Command::new("nginx");
    nginx.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap())).arg("-p").arg(folder.path());
    nginx.args(["-c", "nginx.conf", "-e", "stderr", "-t"]).stdin(Stdio::null());
    let output = nginx.output().await.expect("nginx is missing: run this by `just test-servers`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn the_databases_are_made_as_it_says() {
    use sea_orm::ConnectionTrait;

    let scripts: [String; 2] = Page::read("docs/guides/databases.md").blocks_in("sql").try_into().unwrap();
    for (script, admin) in scripts.iter().zip(["OSPROXY_TEST_POSTGRES", "OSPROXY_TEST_MYSQL"]) {
        let admin = std::env::var(admin).expect("run this by `just test-servers`");
        let name = format!("guide_{}", std::process::id());
        let connection = connect(&admin).await;
        for statement in script.replace("osproxy", &name).split(';').filter(|text| !text.trim().is_empty()) {
            connection.execute_unprepared(statement).await.unwrap();
        }
        let scheme = admin.split("://").next().unwrap();
        let url = format!("{scheme}://{name}:change-me@{}/{name}", host_and_port(&admin));
        let folder = tempfile::tempdir().unwrap();
        let settings = [("DATABASE__URL".to_owned(), url)];
        let (status, _, complaint) = spawn_failing(folder.path(), &settings, &["migrate"]).await;
        assert!(status.success(), "{complaint}");
        connection.execute_unprepared(&format!("DROP DATABASE {name}")).await.unwrap();
        connection.execute_unprepared(&format!("DROP USER {name}")).await.unwrap();
        connection.close().await.unwrap();
    }
}

#[test]
fn every_call_of_grpc_stands_beside_its_route() {
    let page = |path| {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).unwrap()
    };
    let (guide, architecture) = (page("docs/guides/grpc.md"), page("docs/ARCHITECTURE.md"));
    let mut calls = 0;
    for service in ["FileService", "TaskService", "ClusterService", "EventService"] {
        for method in osproxy_api::grpc::methods(&format!("osproxy.v1.{service}")) {
            let call = format!("`{service}.{}`", method.path.rsplit('/').next().unwrap());
            assert!(guide.contains(&format!(" | {call}")), "{call} has no row in docs/guides/grpc.md");
            assert!(architecture.contains(&call), "{call} is missing in docs/ARCHITECTURE.md");
            calls += 1;
        }
    }
    assert_eq!(calls, 21);
}

#[test]
fn every_test_that_the_security_page_names_is_there() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/security.md"))
        .unwrap();
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
