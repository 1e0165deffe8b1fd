//! Reading the small files of one folder of sysfs through its file descriptor.
//!
//! The descriptor ties all reads to one life of the device: if the device goes and another one comes at the same
//! address, reads fail instead of mixing the two. sysfs hands out a whole attribute (at most one page) in one read.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstat};

use super::SysfsError;
use crate::device::PciAddress;

/// Page size is the most an attribute can hold.
const ATTRIBUTE_MAX: usize = 4096;

/// An open folder of a PCI function, or one below it.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    pci: PciAddress,
}

impl Dir {
    /// Opens `name` below an open folder; `None` when it is gone.
    pub(super) fn open(
        parent: impl AsFd,
        path: &Path,
        name: &str,
        pci: PciAddress,
    ) -> Result<Option<Self>, SysfsError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = openat(parent, name, flags, Mode::empty());
        let fd = tolerate(opened, pci, name)?;
        Ok(fd.map(|fd| Self { fd, path: path.join(name), pci }))
    }

    /// A folder below this one.
    pub(super) fn sub(&self, name: &str) -> Result<Option<Self>, SysfsError> {
        Self::open(&self.fd, &self.path, name, self.pci)
    }

    /// An attribute without surrounding white space; `None` when it is missing, empty or refuses to be read.
    pub(super) fn text(&self, file: &str) -> Result<Option<String>, SysfsError> {
        let read = || -> Result<String, Errno> {
            let fd = openat(&self.fd, file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
            let mut page = [0u8; ATTRIBUTE_MAX];
            let length = nix::unistd::read(&fd, &mut page)?;
            Ok(String::from_utf8_lossy(page.get(..length).unwrap_or_default()).trim().to_owned())
        };
        Ok(tolerate(read(), self.pci, file)?.filter(|text| !text.is_empty()))
    }

    /// A decimal attribute.
    pub(super) fn number<T: FromStr>(&self, file: &str) -> Result<Option<T>, SysfsError> {
        Ok(self.text(file)?.and_then(|text| text.parse().ok()))
    }

    /// A hexadecimal attribute, with or without `0x`.
    pub(super) fn hex(&self, file: &str) -> Result<Option<u32>, SysfsError> {
        Ok(self.text(file)?.and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()))
    }

    /// Last component of a symbolic link's target.
    pub(super) fn link(&self, name: &str) -> Result<Option<String>, SysfsError> {
        let target = tolerate(readlinkat(&self.fd, name), self.pci, name)?;
        Ok(target.and_then(|t| Path::new(&t).file_name().and_then(OsStr::to_str).map(str::to_owned)))
    }

    /// Names in a folder below this one (`.` for itself), sorted; none when it is gone.
    pub(super) fn names(&self, folder: &str) -> Result<Vec<String>, SysfsError> {
        let path = if folder == "." { self.path.clone() } else { self.path.join(folder) };
        let mut names = Vec::new();
        let listed = (|| {
            for entry in std::fs::read_dir(&path)? {
                names.extend(entry?.file_name().into_string().ok());
            }
            Ok(())
        })();
        tolerate(
            listed.map_err(|e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(0))),
            self.pci,
            folder,
        )?;
        names.sort_unstable();
        Ok(names)
    }

    /// Inode of the folder.
    pub(super) fn inode(&self) -> Option<u64> {
        fstat(&self.fd).ok().map(|stat| stat.st_ino)
    }
}

/// Missing, gone and refused are answers; being out of descriptors or memory is not, since it says nothing about the
/// device.
pub(super) fn tolerate<T>(
    result: Result<T, Errno>,
    pci: PciAddress,
    file: &str,
) -> Result<Option<T>, SysfsError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => {
            Err(SysfsError::Read { pci, file: file.to_owned(), source: errno.into() })
        }
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_gone_or_refuses_has_no_fact_but_a_process_without_descriptors_says_nothing_about_it()
    {
        let pci: PciAddress = "0000:81:00.1".parse().unwrap();
        for errno in
            [Errno::ENOENT, Errno::ENODEV, Errno::EINVAL, Errno::EOPNOTSUPP, Errno::EACCES, Errno::EIO]
        {
            assert!(matches!(tolerate::<()>(Err(errno), pci, "net/x/speed"), Ok(None)), "{errno}");
        }
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM] {
            let error = tolerate::<()>(Err(errno), pci, "numa_node").unwrap_err().to_string();
            assert!(error.starts_with("can't read numa_node of PCI function 0000:81:00.1: "), "{error}");
        }
    }
}
