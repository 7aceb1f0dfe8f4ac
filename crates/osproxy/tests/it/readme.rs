//! The README, in both of its languages: its scripts run as they stand there, but for the port.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{Page, Service, eventually};

fn readme() -> Page {
    Page::read("README.md")
}

/// What a script said, which must have succeeded.
async fn run(service: &Service, script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = service.shell(folder.path(), script).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The three scripts. A further one needs a test of its own.
fn scripts() -> [String; 3] {
    readme().blocks_in("sh").try_into().unwrap()
}

/// What somebody types at this machine, or at one with containers: the first of them and the third are run with the binary
/// that is there.
fn consoles() -> [String; 6] {
    readme().blocks_in("console").try_into().unwrap()
}

#[tokio::test]
async fn the_service_starts_as_it_says() {
    let service = Service::start().await;
    let folder = tempfile::tempdir().unwrap();
    let [start, ..] = consoles();
    assert_eq!(start.trim(), "cargo run --release -- serve");
    // The binary that is there stands for the one that would be built, and the port for the usual one.
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
    let [_, _, binary, ..] = consoles();
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
    // wget went on where the copy ended, and did not begin anew.
    eventually("the log says so", async || service.log().contains("status=206").then_some(())).await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_large_file_that_breaks_is_resumed_line_by_line() {
    let mut service = Service::start().await;
    let [_, script, _] = scripts();
    let said = run(&service, &script).await;
    assert!(said.contains("it broke\n"), "{said}");
    assert!(said.contains("\"parts\":[1,2,4],"), "{said}");
    assert!(said.contains("\"state\":\"stored\""), "{said}");
    assert!(said.ends_with("identical\n"), "{said}");
    service.assert_consistent().await;
}

#[tokio::test]
async fn what_looks_after_it_works_line_by_line() {
    let mut service = Service::start().await;
    let [.., script] = scripts();
    // Its last command wants the service to be stopped; the others do not mind.
    service.kill().await;
    let said = run(&service, &script).await;
    assert!(said.contains("all is well\n"), "{said}");
}

#[test]
fn both_languages_say_the_same() {
    let (english, chinese) = (readme(), Page::read("README.zh-CN.md"));
    assert_eq!(english.blocks(), chinese.blocks());
    let levels = |page: &Page| {
        let headings = page.headings();
        headings.iter().map(|heading| heading.split(' ').next().unwrap().len()).collect::<Vec<_>>()
    };
    assert_eq!(levels(&english), levels(&chinese));
    let links = |page: &Page| {
        let others = page.links().into_iter().filter(|target| !target.starts_with("README"));
        others.collect::<Vec<_>>()
    };
    assert_eq!(links(&english), links(&chinese));
    // What stands in `code` has no language, nor have rows of tables; nor may a paragraph be missing.
    let code = |page: &Page| {
        let text: String = page.text.split("```").step_by(2).collect();
        let mut code: Vec<_> = text.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        code.sort();
        code
    };
    assert_eq!(code(&english), code(&chinese));
    let paragraphs = |page: &Page| page.text.split("\n\n").count();
    assert_eq!(paragraphs(&english), paragraphs(&chinese));
    let rows = |page: &Page| page.text.lines().filter(|line| line.starts_with('|')).count();
    assert_eq!(rows(&english), rows(&chinese));
}
