//! The commit in the version of a binary, as `build.rs` determines it, in repositories of the test.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::support::spawn_failing;

fn run(folder: &Path, command: &mut Command) -> Output {
    command.current_dir(folder).env_remove("OSPROXY_COMMIT").envs([("GIT_CONFIG_GLOBAL", "/dev/null")]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let identity = ["-c", "user.name=it", "-c", "user.email=it@example.org"];
    let output = run(folder, Command::new("git").args(identity).args(arguments));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The version of a build in a folder, for a profile, with `commit` as `OSPROXY_COMMIT`.
fn version(folder: &Path, script: &Path, profile: &str, told: &str) -> String {
    let mut build = Command::new("env");
    build.arg(format!("OSPROXY_COMMIT={told}")).arg(script).env("PROFILE", profile);
    let said = String::from_utf8(run(folder, &mut build).stdout).unwrap();
    said.lines().find_map(|line| line.strip_prefix("cargo:rustc-env=OSPROXY_VERSION=")).unwrap().to_owned()
}

#[test]
fn a_release_says_its_commit_and_whether_it_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (script, repository) = (folder.path().join("build"), folder.path().join("repository"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/build.rs");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-o"]).arg(&script).arg(source).env("CARGO_PKG_VERSION", "1.2.3");
    run(folder.path(), &mut rustc);
    std::fs::create_dir(&repository).unwrap();
    assert_eq!(version(&repository, &script, "release", ""), "1.2.3");
    assert_eq!(version(&repository, &script, "release", "1c29f64abcde"), "1.2.3 (1c29f64abcde)");

    git(&repository, &["init", "--quiet"]);
    std::fs::write(repository.join("file"), "one").unwrap();
    git(&repository, &["add", "file"]);
    git(&repository, &["commit", "--quiet", "--message", "first"]);
    let commit = git(&repository, &["rev-parse", "--short=12", "HEAD"]);
    assert_eq!(version(&repository, &script, "release", ""), format!("1.2.3 ({commit})"));
    assert_eq!(version(&repository, &script, "debug", ""), "1.2.3");
    // Untracked files do not make a tree dirty.
    std::fs::write(repository.join("other"), "two").unwrap();
    assert_eq!(version(&repository, &script, "release", ""), format!("1.2.3 ({commit})"));
    std::fs::write(repository.join("file"), "two").unwrap();
    assert_eq!(version(&repository, &script, "release", ""), format!("1.2.3 ({commit}-dirty)"));
    assert_eq!(version(&repository, &script, "release", "told"), "1.2.3 (told)");
}

#[tokio::test]
async fn the_binary_says_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let (status, said, _) = spawn_failing(folder.path(), &[], &["--version"]).await;
    assert!(status.success());
    assert!(said.starts_with(concat!("osproxy ", env!("CARGO_PKG_VERSION"))), "{said}");
}
