//! Compiles `proto-schemas/` without `protoc`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto-schemas");
    let package = root.join("lokroom/webhooks/v1");
    println!("cargo::rerun-if-changed={}", package.display());

    let files = ["platform_event.proto", "moved.proto", "fan_out.proto", "delivery.proto"]
        .map(|file| package.join(file));
    let descriptors = protox::compile(files, [root])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
