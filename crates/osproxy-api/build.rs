//! Compiles the messages and services of gRPC, by a compiler that comes with cargo: nobody has to install one.

#![expect(clippy::disallowed_methods, reason = "a build has no settings and no reactor")]

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const SERVICES: [&str; 3] =
    ["osproxy/v1/cluster_service.proto", "osproxy/v1/file_service.proto", "osproxy/v1/task_service.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(SERVICES, ["proto"])?;
    let mut described = files.clone();
    // Where everything stands, and the comments: of use to nobody who asks a running service.
    described.file.iter_mut().for_each(|file| file.source_code_info = None);
    let folder = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(folder.join("descriptors.bin"), described.encode_to_vec())?;
    tonic_prost_build::configure()
        // Content is handed on as it comes, without a copy.
        .bytes(".osproxy.v1")
        .compile_fds(files)?;
    Ok(())
}
