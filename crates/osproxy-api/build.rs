//! Compiles the gRPC messages and services with a compiler written in Rust, so that `protoc` need
//! not be installed.

#![expect(clippy::disallowed_methods, reason = "a build script has no settings and no reactor")]

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const SERVICES: [&str; 4] = [
    "osproxy/v1/cluster_service.proto",
    "osproxy/v1/event_service.proto",
    "osproxy/v1/file_service.proto",
    "osproxy/v1/task_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(SERVICES, ["proto"])?;
    let mut described = files.clone();
    // Reflection does not need comments and source positions.
    described.file.iter_mut().for_each(|file| file.source_code_info = None);
    let folder = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(folder.join("descriptors.bin"), described.encode_to_vec())?;
    tonic_prost_build::configure()
        // Generate `Bytes` fields, so that content is passed on without a copy.
        .bytes(".osproxy.v1")
        .compile_fds(files)?;
    Ok(())
}
