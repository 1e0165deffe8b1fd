//! A container image without a registry: the machine's static busybox and the links of a few applets.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use sriov_dra::cli::image::Image;
use sriov_dra::cli::tar::Entry;

/// Where Debian's busybox-static and others put it.
const PLACES: [&str; 2] = ["/usr/bin/busybox", "/bin/busybox"];
/// What tests and examples call.
const APPLETS: [&str; 11] = ["sh", "cat", "env", "grep", "ip", "kill", "ls", "ping", "sleep", "sort", "true"];

/// The machine's busybox, if it has one.
pub fn binary() -> Option<&'static Path> {
    PLACES.map(Path::new).into_iter().find(|path| path.is_file())
}

/// The image; sleeps unless told otherwise, which also makes it a sandbox's.
///
/// # Errors
/// When there is no busybox, or none for an architecture that images are made for here.
pub fn image(tag: &str) -> Result<Image> {
    let mut files: Vec<Entry> = ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var"]
        .map(|dir| Entry::dir(dir, 0o755))
        .into();
    let binary = binary().context("there is no busybox; Debian's package is busybox-static")?;
    files.push(Entry::file("bin/busybox", 0o755, fs::read(binary)?));
    for applet in APPLETS {
        files.push(Entry::symlink(format!("bin/{applet}"), "busybox"));
    }
    files.push(Entry::file("etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\n"));
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => anyhow::bail!("nobody has tried the image on {other}"),
    };
    Ok(Image {
        tag: tag.to_owned(),
        architecture,
        files,
        config: json!({ "Cmd": ["/bin/sleep", "100000"], "Env": ["PATH=/bin"] }),
    })
}
