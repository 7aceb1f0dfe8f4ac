use crate::support::{Service, eventually, spawn_failing};

/// Runs the script of a section as it stands in the README, but for the port, and gives what it said.
async fn run(service: &Service, section: &str) -> String {
    run_of(service, include_str!("../../../../README.md"), section).await
}

async fn run_of(service: &Service, page: &str, section: &str) -> String {
    let (_, section) = page.split_once(section).unwrap();
    let (_, script) = section.split_once("```sh\n").unwrap();
    let (script, _) = script.split_once("```").unwrap();
    assert!(script.lines().count() > 20);
    let script = script.replace("127.0.0.1:8888", &service.address.to_string());
    let folder = tempfile::tempdir().unwrap();
    let mut bash = tokio::process::Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &script]).current_dir(folder.path());
    let output = bash.output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    said
}

#[tokio::test]
async fn the_quick_start_works_line_by_line() {
    let service = Service::start().await;
    let said = run(&service, "## Quick start").await;
    assert!(said.contains("identical\n"), "{said}");
    assert!(said.contains("\n1000000\n"), "{said}");
    let ok = said.matches("{\"code\":0,\"message\":\"ok\"").count();
    assert_eq!(ok, 5, "{said}");
    // wget went on where the copy ended, and did not begin anew.
    eventually("the log says so", async || service.log().contains("status=206").then_some(())).await;
    let instant = said.rsplit_once("\"uid\":\"").unwrap().1;
    assert!(instant.starts_with(|first: char| first.is_ascii_digit()), "{said}");
}

#[tokio::test]
async fn every_configuration_in_the_documentation_is_one() {
    let readme = include_str!("../../../../README.md");
    let stores = include_str!("../../../../docs/guides/stores.md");
    let cluster = include_str!("../../../../docs/guides/cluster.md");
    let observability = include_str!("../../../../docs/guides/observability.md");
    let examples: Vec<_> = [readme, stores, cluster, observability]
        .iter()
        .flat_map(|page| page.split("```yaml\n").skip(1))
        .collect();
    assert_eq!(examples.len(), 10);
    for example in examples {
        let folder = tempfile::tempdir().unwrap();
        let (text, _) = example.split_once("```").unwrap();
        std::fs::write(folder.path().join("config.yaml"), text).unwrap();
        let arguments = ["check-config", "--config", "config.yaml"];
        let (status, _, complaint) = spawn_failing(folder.path(), &[], &arguments).await;
        assert!(status.success(), "{text}\n{complaint}");
    }
}

#[tokio::test]
async fn a_large_file_that_breaks_is_resumed_line_by_line() {
    let mut service = Service::start().await;
    let said = run(&service, "## Large files").await;
    assert!(said.contains("it broke\n"), "{said}");
    assert!(said.contains("\"data\":[1,2,4]}"), "{said}");
    // Three parts, the checkpoint, the two that were missing, and the merge.
    assert_eq!(said.matches("{\"code\":0,\"message\":\"ok\"").count(), 7, "{said}");
    assert!(said.ends_with("identical\n"), "{said}");
    let uid = service.sql("SELECT uid FROM files").await.remove(0);
    service.wait_until_whole(&uid).await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn the_tour_of_api_v1_works_line_by_line() {
    let mut service = Service::start().await;
    let guide = include_str!("../../../../docs/guides/api-v1.md");
    let said = run_of(&service, guide, "## A tour").await;
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
        "\"bytes_saved\":23477791",
        "\"kind\":\"sweep\"",
        "\n204\n",
        "\"code\":\"file_gone\"",
        "\"code\":\"file_not_found\"",
    ] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    // The second page, and it is the last one.
    let page = said.lines().find(|line| line.starts_with("{\"files\"")).unwrap();
    assert!(page.contains("report 2.txt") && !page.contains("next_cursor"), "{page}");
    service.database().settle().await;
    service.assert_consistent().await;
}
