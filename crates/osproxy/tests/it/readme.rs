use crate::support::{Service, eventually};

/// Runs the quick start as it stands in the README, but for the port.
#[tokio::test]
async fn the_quick_start_works_line_by_line() {
    let readme = include_str!("../../../../README.md");
    let (_, section) = readme.split_once("## Quick start").unwrap();
    let (_, script) = section.split_once("```sh\n").unwrap();
    let (script, _) = script.split_once("```").unwrap();
    assert!(script.lines().count() > 20);

    let service = Service::start().await;
    let script = script.replace("127.0.0.1:8888", &service.address.to_string());
    let folder = tempfile::tempdir().unwrap();
    let mut bash = tokio::process::Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &script]).current_dir(folder.path());
    let output = bash.output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("identical\n"), "{said}");
    assert!(said.contains("\n1000000\n"), "{said}");
    let ok = said.matches("{\"code\":0,\"message\":\"ok\"").count();
    assert_eq!(ok, 5, "{said}");
    // wget went on where the copy ended, and did not begin anew.
    eventually("the log says so", async || service.log().contains("status=206").then_some(())).await;
    let instant = said.rsplit_once("\"uid\":\"").unwrap().1;
    assert!(instant.starts_with(|first: char| first.is_ascii_digit()), "{said}");
}
