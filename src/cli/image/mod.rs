//! `sriov-dra image`: the container image as an archive, without a registry, a daemon or a builder.
//!
//! The image is `FROM scratch` with one static executable. The archive is an OCI image layout (image-spec 1.0,
//! `oci-layout`, `index.json`, `blobs/sha256/…`) that also carries Docker's `manifest.json`, so that
//! `ctr images import`, `podman load` and `docker load` all take it. The same input gives the same bytes: no times, no
//! owners, a fixed order.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::tar::{Entry, Tar, TarError};

/// Where the executable is in the image; also its entrypoint.
const EXECUTABLE: &str = "sriov-dra";

/// Arguments of `sriov-dra image`.
#[derive(Debug, Clone, clap::Args)]
pub struct ImageArgs {
    /// Archive to write; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Name and tag the runtime knows the image by
    #[arg(long, value_name = "HOST/NAME:TAG", default_value = concat!("localhost/sriov-dra:", env!("CARGO_PKG_VERSION")))]
    pub tag: String,
    /// Statically linked executable to pack instead of this one
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
}

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The executable could not be read.
    #[error("can't read the executable {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The executable is no 64-bit ELF file of an architecture this crate knows.
    #[error("{path} is not an executable for an image: {reason}")]
    Executable {
        /// Which file.
        path: PathBuf,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The tag is no image reference.
    #[error("{tag:?} is not an image name such as localhost/sriov-dra:0.1.0: {reason}")]
    Tag {
        /// As given.
        tag: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The archive could not be put together.
    #[error("can't put the archive together")]
    Archive(#[from] TarError),
    /// The archive could not be written.
    #[error("can't write the archive {path}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Image {
    /// `host/name:tag`.
    pub tag: String,
    /// Architecture in Go's words (`amd64`, `arm64`), as image-spec wants it.
    pub architecture: &'static str,
    /// Files of the one layer, in order; parents before children.
    pub files: Vec<Entry>,
    /// `config` of the image configuration (Entrypoint, Cmd, Env, Labels).
    pub config: Value,
}

/// Runs the command: reads the executable, writes the archive (beside its place, then renamed).
///
/// # Errors
/// [`ImageError`], always naming the file or the tag.
pub fn run(args: &ImageArgs) -> Result<(), ImageError> {
    let ImageArgs { output, tag, binary } = args;
    // /proc/self/exe and not current_exe(): still right when the file was replaced while this runs.
    let path = binary.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let executable = fs::read(&path).map_err(|source| ImageError::Read { path: path.clone(), source })?;
    let architecture =
        architecture(&executable).map_err(|reason| ImageError::Executable { path: path.clone(), reason })?;
    let archive = archive(&driver_image(tag, architecture, executable))?;
    write(output, &archive).map_err(|source| ImageError::Write { path: output.clone(), source })
}

/// The driver's image: the executable, its entrypoint, nothing else.
pub fn driver_image(tag: &str, architecture: &'static str, executable: Vec<u8>) -> Image {
    Image {
        tag: tag.to_owned(),
        architecture,
        files: vec![Entry::file(EXECUTABLE, 0o755, executable)],
        config: json!({
            "Entrypoint": [format!("/{EXECUTABLE}")],
            "Cmd": ["node"],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": EXECUTABLE,
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
                "org.opencontainers.image.description": env!("CARGO_PKG_DESCRIPTION"),
            },
        }),
    }
}

/// The archive's bytes.
///
/// # Errors
/// [`ImageError::Tag`] for a tag no runtime would take, [`ImageError::Archive`] for a file name tar can't hold.
pub fn archive(image: &Image) -> Result<Vec<u8>, ImageError> {
    check_tag(&image.tag)?;
    let mut layer = Tar::new();
    for entry in &image.files {
        layer.push(entry)?;
    }
    let layer = Blob::new("application/vnd.oci.image.layer.v1.tar", layer.finish());
    let config = Blob::new(
        "application/vnd.oci.image.config.v1+json",
        bytes(&json!({
            "architecture": image.architecture,
            "os": "linux",
            "config": image.config,
            "rootfs": { "type": "layers", "diff_ids": [layer.digest()] },
            "history": [{ "created_by": "sriov-dra image" }],
        })),
    );
    let manifest = Blob::new(
        "application/vnd.oci.image.manifest.v1+json",
        bytes(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor(),
            "layers": [layer.descriptor()],
        })),
    );
    let mut listed = manifest.descriptor();
    listed["platform"] = json!({ "architecture": image.architecture, "os": "linux" });
    // containerd reads the first for the full name; the second holds only the tag (image-spec, annotations).
    listed["annotations"] = json!({
        "io.containerd.image.name": image.tag,
        "org.opencontainers.image.ref.name": image.tag.rsplit_once(':').map_or("latest", |(_, tag)| tag),
    });
    let index = bytes(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [listed],
    }));
    let docker = bytes(&json!([{
        "Config": config.path(),
        "RepoTags": [image.tag],
        "Layers": [layer.path()],
    }]));

    let mut tar = Tar::new();
    tar.push(&Entry::file("oci-layout", 0o644, bytes(&json!({ "imageLayoutVersion": "1.0.0" }))))?;
    tar.push(&Entry::file("index.json", 0o644, index))?;
    tar.push(&Entry::file("manifest.json", 0o644, docker))?;
    tar.push(&Entry::dir("blobs", 0o755))?;
    tar.push(&Entry::dir("blobs/sha256", 0o755))?;
    let mut blobs = [config, layer, manifest];
    blobs.sort_by(|a, b| a.sha256.cmp(&b.sha256));
    for blob in blobs {
        tar.push(&Entry::file(blob.path(), 0o644, blob.content))?;
    }
    Ok(tar.finish())
}

/// A blob of the layout, addressed by its checksum.
struct Blob {
    media_type: &'static str,
    sha256: String,
    content: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, content: Vec<u8>) -> Self {
        let sha256 = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { media_type, sha256, content }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.sha256)
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.sha256)
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest(), "size": self.content.len() })
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// The grammar of `distribution/reference`, as far as a name with a host and a tag needs it. The host is asked for
/// because runtimes complete a name without one, each in its own way, and then don't find what was imported.
fn check_tag(tag: &str) -> Result<(), ImageError> {
    let refuse = |reason| Err(ImageError::Tag { tag: tag.to_owned(), reason });
    let Some((name, label)) = tag.rsplit_once(':').filter(|(_, label)| !label.contains('/')) else {
        return refuse("the tag after the colon is missing");
    };
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if label.is_empty() || label.len() > 128 || !label.bytes().all(word) || label.starts_with(['.', '-']) {
        return refuse(
            "a tag has 1 to 128 letters, digits, dots, dashes and underscores, neither dot nor dash first",
        );
    }
    let Some((host, path)) =
        name.split_once('/').filter(|(h, _)| *h == "localhost" || h.contains(['.', ':']))
    else {
        return refuse("it does not begin with a host; localhost/ will do where nothing is pulled");
    };
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = |part: &str, also: &[u8]| {
        let ends = part.bytes().next().is_some_and(lower) && part.bytes().last().is_some_and(lower);
        ends && part.bytes().all(|b| lower(b) || also.contains(&b))
    };
    if !good(host, b".-:") || !path.split('/').all(|part| good(part, b"._-")) {
        return refuse(
            "a name has lower-case letters and digits, with dots, dashes and underscores only between them",
        );
    }
    Ok(())
}

/// The image's architecture from the ELF header (`e_machine`, offset 18), and that the file needs no loader: an image
/// from scratch has none (`PT_INTERP`, type 3, in the program headers).
fn architecture(elf: &[u8]) -> Result<&'static str, String> {
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err("it is no little-endian 64-bit ELF file".to_owned());
    }
    let cut = || "its ELF header is cut off".to_owned();
    let offset = elf.get(32..40).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes).ok_or_else(cut)?;
    let offset = usize::try_from(offset).map_err(|_| cut())?;
    let (size, count) = (half(54).ok_or_else(cut)?, half(56).ok_or_else(cut)?);
    for index in 0..usize::from(count) {
        let at = offset.checked_add(index * usize::from(size)).ok_or_else(cut)?;
        if at.checked_add(4).and_then(|_| word(at)).ok_or_else(cut)? == 3 {
            return Err("it is linked dynamically, and an image from scratch has no loader; build it statically (target-feature=+crt-static)".to_owned());
        }
    }
    match half(18) {
        Some(62) => Ok("amd64"),
        Some(183) => Ok("arm64"),
        Some(machine) => Err(format!("ELF machine {machine} is neither x86-64 (62) nor AArch64 (183)")),
        None => Err(cut()),
    }
}

fn write(output: &Path, archive: &[u8]) -> io::Result<()> {
    if output.as_os_str() == OsStr::from_bytes(b"-") {
        return io::stdout().lock().write_all(archive);
    }
    // A device, a pipe or a link is written to, never replaced.
    if fs::symlink_metadata(output).is_ok_and(|there| !there.is_file()) {
        return fs::OpenOptions::new().write(true).truncate(true).open(output)?.write_all(archive);
    }
    let mut beside = output.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    fs::write(&beside, archive).and_then(|()| fs::rename(&beside, output)).inspect_err(|_| {
        // What is left of a full disk should not stay there; the first error is the one to tell.
        let _ = fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests;
