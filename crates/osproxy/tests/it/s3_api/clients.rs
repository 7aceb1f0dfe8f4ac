//! Clients of S3 that others wrote.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};
use tokio::process::Command;

use super::Scene;
use crate::support::{Page, S3Key, amount};

/// The folder with the programs that use clients.
pub fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/s3_api/programs")
}

/// The Python of the tests.
pub fn python() -> PathBuf {
    std::env::var_os("OSPROXY_TEST_PYTHON").expect("run this by `just test-servers`").into()
}

/// A command that runs a program with the key and the address of a scene in its environment, in a
/// folder that is also its home. The clients of Python are in its path.
pub fn command(scene: &Scene, program: &str, folder: &Path) -> Command {
    let mut command = match Path::new(program).extension().unwrap().to_str().unwrap() {
        "sh" => {
            let mut bash = Command::new("bash");
            bash.args(["-euxo", "pipefail"]);
            bash
        }
        "py" => Command::new(python()),
        _ => Command::new("node"),
    };
    let path = std::env::var("PATH").unwrap();
    command.arg(programs().join(program)).current_dir(folder).env("HOME", folder);
    command.env("PATH", format!("{}:{path}", python().parent().unwrap().display()));
    command.env("S3_ENDPOINT", format!("http://{}", scene.address)).env("AWS_DEFAULT_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", &scene.key.access_key_id);
    command.env("AWS_SECRET_ACCESS_KEY", &scene.key.secret_access_key);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a program, which must succeed.
pub async fn run(mut command: Command) -> String {
    let output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Asserts that nothing is left of what the client has deleted, that the rest is consistent, and that
/// the service has logged no error.
async fn assert_sound(mut scene: Scene) {
    scene.service.database().wait_until_idle().await;
    let log = scene.service.log();
    assert!(!log.contains(" ERROR ") && !log.contains("panicked"), "{log}");
    scene.service.assert_consistent().await;
}

/// Starts a service and runs a client program against it. The program checks what it reads.
async fn check_client(program: &str) {
    let scene = Scene::start().await;
    let folder = tempfile::tempdir().unwrap();
    run(command(&scene, program, folder.path())).await;
    assert_sound(scene).await;
}

#[tokio::test]
#[ignore = "needs Python: just test-servers"]
async fn rclone_copies_synchronizes_and_checks() {
    check_client("rclone.sh").await;
}

#[tokio::test]
#[ignore = "needs s3cmd: just test-servers"]
async fn s3cmd_stores_and_synchronizes() {
    check_client("s3cmd.sh").await;
}

#[tokio::test]
#[ignore = "needs Python: just test-servers"]
async fn s5cmd_copies_and_synchronizes() {
    check_client("s5cmd.sh").await;
}

#[tokio::test]
#[ignore = "needs restic: just test-servers"]
async fn restic_backs_up_restores_and_prunes() {
    check_client("restic.sh").await;
}

#[tokio::test]
#[ignore = "needs duplicity: just nightly"]
async fn duplicity_backs_up_and_restores() {
    if amount(false, true) {
        check_client("duplicity.sh").await;
    }
}

#[tokio::test]
#[ignore = "needs Python: just test-servers"]
async fn minio_py_stores_composes_and_signs() {
    check_client("minio_client.py").await;
}

#[tokio::test]
#[ignore = "needs Node: just test-servers"]
async fn the_sdk_for_javascript_stores_streams() {
    check_client("sdk.mjs").await;
}

#[tokio::test]
#[ignore = "needs Node: just test-servers"]
async fn minio_js_stores_and_signs() {
    check_client("minio.mjs").await;
}

/// Lists buckets with boto3.
async fn boto3(scene: &Scene, key: &S3Key, options: &Value) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let mut program = command(scene, "list_buckets.py", folder.path());
    program.args([&format!("http://{}", scene.address), &key.access_key_id, &key.secret_access_key]);
    program.arg(options.to_string());
    serde_json::from_str(&run(program).await).unwrap()
}

#[tokio::test]
#[ignore = "needs Python: just test-servers"]
async fn boto3_lists_buckets() {
    let scene = Scene::start().await;
    assert_eq!(boto3(&scene, &scene.key, &json!({})).await, json!({"buckets": [], "owner": "shop"}));
    let wrong = S3Key { secret_access_key: "x".repeat(40), ..scene.key.clone() };
    assert_eq!(
        boto3(&scene, &wrong, &json!({})).await,
        json!({"error": "SignatureDoesNotMatch", "status": 403})
    );
    let version_2 = json!({"signature_version": "s3"});
    assert_eq!(
        boto3(&scene, &scene.key, &version_2).await,
        json!({"error": "InvalidRequest", "status": 400})
    );
}

#[tokio::test]
#[ignore = "needs Python: just test-servers"]
async fn the_commands_of_the_guide_work() {
    let scene = Scene::start().await;
    let script = Page::read("docs/guides/s3.md").joined_blocks("sh");
    let script = script
        .replace("127.0.0.1:9000", &scene.address.to_string())
        .replace("OSPEXAMPLEEXAMPLE234", &scene.key.access_key_id)
        .replace("secret-of-the-key", &scene.key.secret_access_key);
    let folder = tempfile::tempdir().unwrap();
    let clients = python().parent().unwrap().display().to_string();
    let script = format!("export PATH={clients}:$PATH HOME={}\n{script}", folder.path().display());
    let output = scene.service.shell(folder.path(), &script).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("make_bucket: photos") && said.contains("hello.txt"), "{said}");
    assert!(said.ends_with("hello\n"), "{said}");
}

#[tokio::test]
#[ignore = "needs Python: just test-servers"]
async fn another_server_is_migrated_as_the_guide_says() {
    let scene = Scene::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut program = command(&scene, "migration.py", folder.path());
    let blocks = Page::read("docs/guides/s3-migration.md").blocks_in("sh");
    program.args(blocks.into_iter().map(|block| {
        block
            .replace("127.0.0.1:9000", &scene.address.to_string())
            .replace("OSPEXAMPLEEXAMPLE234", &scene.key.access_key_id)
            .replace("secret-of-the-key", &scene.key.secret_access_key)
    }));
    program.env("RCLONE_CONFIG", "/dev/null");
    run(program).await;
    assert_sound(scene).await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn another_server_gives_the_same_answers() {
    let scene = Scene::start().await;
    let folder = tempfile::tempdir().unwrap();
    let peer = std::env::var("OSPROXY_TEST_S3_PARTS").expect("run this by `just test-servers`");
    for seed in amount(1..2, 1..11) {
        let mut program = command(&scene, "differential.py", folder.path());
        program.args([&seed.to_string(), &amount(300, 2000).to_string(), &peer]);
        run(program).await;
    }
    assert_sound(scene).await;
}

/// Groups of cases that are not only run at night.
const GROUPS: &str = "objects,conditional,copy,delete,multipart,checksums,post,races,cors,lifecycle";

#[tokio::test]
#[ignore = "needs Python: just test-servers"]
async fn the_conformance_suite_finds_only_known_differences() {
    let scene = Scene::start().await;
    let key = async |options: &[&str]| {
        let S3Key { access_key_id, secret_access_key } = S3Key::create(&scene.service, options).await;
        json!({"access_key_id": access_key_id, "secret_access_key": secret_access_key})
    };
    let shop = ["--tenant", "shop"];
    let mut limited = key(&[&shop[..], &["--buckets", "limited-a,limited-b"]].concat()).await;
    limited["buckets"] = json!(["limited-a", "limited-b"]);
    let keys = json!({
        "main": key(&shop).await,
        "read_only": key(&[&shop[..], &["--read-only"]].concat()).await,
        "limited": limited,
        "other_tenant": key(&["--tenant", "other"]).await,
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, keys.to_string()).unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/s3_api");
    let mut suite = Command::new(python());
    suite.arg(here.join("suite")).arg(format!("http://{}", scene.address)).arg(file);
    suite.arg("--known").arg(here.join("known_differences.txt"));
    if let Some(groups) = amount(Some(GROUPS), None) {
        suite.args(["--groups", groups]);
    }
    let output = suite.kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(" cases passed"), "{said}");
}
