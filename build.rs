//! Compiles `proto/*.proto` with protox (no protoc on the machine) into `OUT_DIR`.

use std::error::Error;

/// Services over gRPC: client and server. (NRI and ttrpc have messages only; their framing is this crate's own.)
const FILES: [&str; 7] = [
    "pluginregistration-v1.proto",
    "dra-v1.proto",
    "dra-v1beta1.proto",
    "google-rpc-status.proto",
    "ttrpc.proto",
    "nri.proto",
    "cri.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    tonic_prost_build::configure()
        // Payloads of hundreds of kB pass through here; a slice of the receive buffer instead of a copy.
        .bytes(".ttrpc")
        .compile_fds(protox::compile(FILES, ["proto"])?)?;
    Ok(())
}
