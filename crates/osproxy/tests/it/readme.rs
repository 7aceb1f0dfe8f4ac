//! The scripts of the README and of the guide for getting started run as they are, except for the
//! port, and translated pages have the same blocks, links and headings as their originals.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{Page, Service};

fn readme() -> Page {
    Page::read("README.md")
}

fn getting_started() -> Page {
    Page::read("docs/guides/getting-started.md")
}

/// Runs a script, which must succeed, and returns its output.
async fn run(service: &Service, script: &str) -> String {
    run_with(service, script, &[]).await
}

/// Runs a script, which must succeed, with environment variables, and returns its output.
async fn run_with(service: &Service, script: &str, variables: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut shell = service.shell(folder.path(), script);
    let output = shell.envs(variables.iter().copied()).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The quick start, and the upload of a large file. A further script needs its own test.
fn scripts() -> [String; 2] {
    readme().blocks_in("sh").try_into().unwrap()
}

#[tokio::test]
async fn the_service_starts_as_it_says() {
    let service = Service::start().await;
    let folder = tempfile::tempdir().unwrap();
    let [start, all_tests]: [String; 2] = readme().blocks_in("console").try_into().unwrap();
    assert_eq!(all_tests.trim(), "./.ci/run");
    assert_eq!(start.trim(), "cargo run --release -- serve");
    // The binary of this build replaces the one that cargo would build, and a free port the usual
    // one.
    let script =
        format!("cargo() {{ shift 3; exec osproxy \"$@\" --listen 127.0.0.1:0 --data-dir other; }}\n{start}");
    let mut shell = service.shell(folder.path(), &script);
    let mut started = shell.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(started.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    assert!(line.starts_with("osproxy is ready on http://127.0.0.1:"), "{line}");
}

#[tokio::test]
async fn the_binary_serves_others_as_it_says() {
    let mut service = Service::start().await;
    service.kill().await;
    let folder = tempfile::tempdir().unwrap();
    let binary = getting_started().blocks_in("console").remove(0);
    let (build, script) = binary.split_once('\n').unwrap();
    assert_eq!(build, "cargo build --release");
    let script = script.replace("target/release/osproxy", "osproxy").replace(":8888", ":0");
    let mut shell = service.shell(folder.path(), &script);
    let mut started = shell.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(started.stdout.take().unwrap()).lines();
    for expected in ["osk_", "osproxy is ready on http://0.0.0.0:"] {
        let line = lines.next_line().await.unwrap().unwrap();
        assert!(line.starts_with(expected), "{line}");
    }
}

#[tokio::test]
async fn the_quick_start_works_line_by_line() {
    let mut service = Service::start().await;
    let [script, ..] = scripts();
    let said = run(&service, &script).await;
    assert!(said.contains("identical\n"), "{said}");
    assert!(said.contains("\n1000000\n"), "{said}");
    assert_eq!(said.matches("\"state\":\"stored\"").count(), 3, "{said}");
    // wget resumed where the copy ended, instead of starting again.
    service.wait_for_log("status=206").await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_large_file_that_breaks_is_resumed_line_by_line() {
    let mut service = Service::start().await;
    let [_, script] = scripts();
    let said = run(&service, &script).await;
    assert!(said.contains("it broke\n"), "{said}");
    assert!(said.contains("\"parts\":[1,2,4],"), "{said}");
    assert!(said.contains("\"state\":\"stored\""), "{said}");
    assert!(said.ends_with("identical\n"), "{said}");
    service.assert_consistent().await;
}

#[tokio::test]
async fn the_scripts_work_with_any_key() {
    let mut service = Service::start().await;
    let key = service.create_key(&["--tenant", "shop"]).await;
    std::fs::remove_file(service.folder().join("osproxy-data/bootstrap-key")).unwrap();
    for script in scripts() {
        let said = run_with(&service, &script, &[("OSPROXY_KEY", key.as_str())]).await;
        assert!(said.contains("identical\n"), "{said}");
    }
    assert_eq!(service.sql("SELECT DISTINCT tenant FROM files").await, ["shop"]);
    service.assert_consistent().await;
}

#[tokio::test]
async fn what_looks_after_it_works_line_by_line() {
    let mut service = Service::start().await;
    let script = getting_started().joined_blocks("sh");
    // Its last command requires a stopped service; the others work either way.
    service.kill().await;
    let said = run(&service, &script).await;
    assert!(said.contains("no problem found\n"), "{said}");
}

/// Removes the comment at the end of a line, because comments are translated.
fn without_comment(line: &str) -> &str {
    let starts = line.match_indices("# ").chain(line.match_indices("// ")).map(|(start, _)| start);
    let is_comment = |start: &usize| line[..*start].chars().next_back().is_none_or(char::is_whitespace);
    line[..starts.filter(is_comment).min().unwrap_or(line.len())].trim_end()
}

/// The blocks of a page without comments, text and diagrams, which are translated.
fn untranslated_blocks(page: &Page) -> Vec<(String, Vec<String>)> {
    let blocks = page.blocks().into_iter().map(|block| {
        let is_translated = ["mermaid", "text"].contains(&block.language.as_str());
        let lines = block.text.lines().map(without_comment);
        let lines = lines.filter(|line| !is_translated && !line.is_empty()).map(str::to_owned);
        let lines: Vec<_> = lines.collect();
        (block.language, lines)
    });
    blocks.collect()
}

/// The targets of the links of a page. A translated page counts as its original; anchors do not
/// count, because headings are translated.
fn untranslated_links(page: &Page) -> Vec<String> {
    let links = page.links();
    links.iter().map(|link| link.split('#').next().unwrap().replace(".zh-CN.", ".")).collect()
}

#[test]
fn both_languages_say_the_same() {
    let mut translations = 0;
    for chinese in Page::all() {
        let Some(original) = chinese.path.strip_suffix(".zh-CN.md") else { continue };
        let english = Page::read(&format!("{original}.md"));
        assert_eq!(untranslated_blocks(&english), untranslated_blocks(&chinese), "{original}");
        assert_eq!(untranslated_links(&english), untranslated_links(&chinese), "{original}");
        let levels =
            |page: &Page| -> Vec<_> { page.headings().iter().map(|heading| heading.find(' ')).collect() };
        assert_eq!(levels(&english), levels(&chinese), "{original}");
        translations += 1;
    }
    assert!(translations >= 3, "{translations}");
}
