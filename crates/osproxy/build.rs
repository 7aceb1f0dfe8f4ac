//! Embeds the commit from which the program is built.

#![expect(clippy::disallowed_methods, reason = "a build has no settings and no reactor")]

use std::{env, process::Command};

fn main() {
    println!("cargo:rerun-if-env-changed=OSPROXY_COMMIT");
    let told = env::var("OSPROXY_COMMIT").ok().filter(|commit| !commit.is_empty());
    // Only release builds look the commit up: in other builds, every commit would cause a rebuild.
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = told.or_else(|| is_release.then(of_repository).flatten()).unwrap_or_default();
    let number = env!("CARGO_PKG_VERSION");
    let version = if commit.is_empty() { number.to_owned() } else { format!("{number} ({commit})") };
    println!("cargo:rustc-env=OSPROXY_COMMIT={commit}");
    println!("cargo:rustc-env=OSPROXY_VERSION={version}");
}

/// The commit that is checked out, with `-dirty` appended if tracked files have changed; `None`
/// outside a repository.
fn of_repository() -> Option<String> {
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    // `logs/HEAD` changes with every commit, wherever the branch is stored; `index` changes when
    // files are staged.
    for file in ["HEAD", "logs/HEAD", "index"] {
        println!("cargo:rerun-if-changed={}", git(&["rev-parse", "--git-path", file])?);
    }
    for source in ["build.rs", "..", "../../Cargo.lock", "../../Cargo.toml"] {
        println!("cargo:rerun-if-changed={source}");
    }
    let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changes.is_empty() { commit } else { commit + "-dirty" })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
