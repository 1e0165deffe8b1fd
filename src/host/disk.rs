//! Every change of files by which the rooms that work on claims remember, in one place: what can fail there, and where a
//! process can end.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::fate::{Kind, effect};

/// Makes a file that is not there yet, with this content; it may be half a one when the process ends. With `mode`
/// whatever the umask says.
///
/// # Errors
/// The disk's.
pub fn make(path: &Path, content: &[u8], mode: Option<u32>) -> io::Result<File> {
    effect(Kind::Room, format_args!("make {}", path.display()))?;
    let mut options = File::options();
    options.write(true).create_new(true);
    if let Some(mode) = mode {
        options.mode(mode);
    }
    let mut file = options.open(path)?;
    if let Some(mode) = mode {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    effect(Kind::Room, format_args!("write {}", path.display()))?;
    #[cfg(any(test, feature = "testing"))]
    super::fate::dies_half_way(|| {
        let _ = file.write_all(content.get(..content.len() / 2).unwrap_or_default());
    });
    file.write_all(content)?;
    Ok(file)
}

/// Makes an empty file, if it is not there.
///
/// # Errors
/// The disk's.
pub fn touch(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    effect(Kind::Room, format_args!("make {}", path.display()))?;
    File::create(path).map(drop)
}

/// Waits until the content of a file, or the names in a folder, would survive the loss of power.
///
/// # Errors
/// The disk's.
pub fn sync(file: &File, path: &Path) -> io::Result<()> {
    effect(Kind::Disk, format_args!("sync {}", path.display()))?;
    file.sync_all()
}

/// The same for the names in a folder.
///
/// # Errors
/// The disk's.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    sync(&File::open(folder)?, folder)
}

/// Gives a file another name, in the place of whatever had it.
///
/// # Errors
/// The disk's.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    effect(Kind::Disk, format_args!("rename to {}", to.display()))?;
    fs::rename(from, to)
}

/// Gives a file another name that nobody must have.
///
/// # Errors
/// The disk's; `AlreadyExists`.
pub fn link(from: &Path, to: &Path) -> io::Result<()> {
    effect(Kind::Room, format_args!("link {}", to.display()))?;
    fs::hard_link(from, to)
}

/// Copies a file.
///
/// # Errors
/// The disk's.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    effect(Kind::Room, format_args!("copy to {}", to.display()))?;
    fs::copy(from, to).map(drop)
}

/// Removes a file.
///
/// # Errors
/// The disk's; `NotFound`.
pub fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return Err(io::ErrorKind::NotFound.into());
    }
    effect(Kind::Disk, format_args!("remove {}", path.display()))?;
    fs::remove_file(path)
}

/// Removes a folder that is empty.
///
/// # Errors
/// The disk's.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    effect(Kind::Disk, format_args!("remove folder {}", path.display()))?;
    fs::remove_dir(path)
}

/// Removes a folder with all that is in it.
///
/// # Errors
/// The disk's; `NotFound`.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    effect(Kind::Disk, format_args!("remove {} and what is in it", path.display()))?;
    fs::remove_dir_all(path)
}

/// Makes a folder and those above it, as far as they are not there.
///
/// # Errors
/// The disk's.
pub fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    effect(Kind::Room, format_args!("make folder {}", path.display()))?;
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}
