//! The node's own files, seen from wherever this process is.
//!
//! In a pod with the host's process IDs they are below `/proc/1/root`. Absolute symbolic links below it (`/var/run` to
//! `/run`) would lead back into the pod, so every component is followed by hand, as `chroot` would.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows (`MAXSYMLINKS`, include/linux/namei.h).
const MOST_LINKS: usize = 40;

/// A root folder that is a value.
#[derive(Debug, Clone)]
pub struct NodeFiles {
    root: PathBuf,
}

impl NodeFiles {
    /// The files below a folder, which is `/` to all links in it.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A path of the node as a path of this process. What does not exist keeps its last components.
    ///
    /// # Errors
    /// `ELOOP` for links that lead nowhere, and what the kernel says of a link that can't be read.
    pub fn path(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let mut rest: Vec<OsString> = components(path.as_ref());
        rest.reverse();
        let mut done: Vec<OsString> = Vec::new();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            let mut here = self.root.clone();
            here.extend(&done);
            here.push(&part);
            match std::fs::read_link(&here) {
                Ok(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(io::Error::from_raw_os_error(nix::libc::ELOOP));
                    }
                    if target.is_absolute() {
                        done.clear();
                    }
                    rest.extend(components(&target).into_iter().rev());
                }
                // EINVAL: no link. What is not there, or below a file, is told by whoever opens it.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(nix::libc::EINVAL | nix::libc::ENOENT | nix::libc::ENOTDIR)
                    ) =>
                {
                    done.push(part);
                }
                Err(error) => return Err(error),
            }
        }
        let mut path = self.root.clone();
        path.extend(done);
        Ok(path)
    }

    /// A file's text.
    ///
    /// # Errors
    /// As [`path`](Self::path), and of reading; bytes that are no UTF-8 are replaced.
    pub fn text(&self, path: impl AsRef<Path>) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(self.path(path)?)?).into_owned())
    }

    /// Names in a folder, sorted; none when it can't be listed.
    pub fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = self.path(path).and_then(std::fs::read_dir);
        let mut names: Vec<String> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }

    /// Whether it is there, as far as can be told.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).is_ok_and(|path| path.exists())
    }
}

fn components(path: &Path) -> Vec<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn absolute_links_stay_below_the_root_and_circles_end() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("run/nri")).unwrap();
        fs::create_dir_all(root.join("var")).unwrap();
        fs::write(root.join("run/nri/x"), "here").unwrap();
        symlink("/run", root.join("var/run")).unwrap();
        symlink("../../../run/nri", root.join("var/up")).unwrap();
        symlink("circle", root.join("var/circle")).unwrap();
        let files = NodeFiles::at(root);
        assert_eq!(files.path("/var/run/nri/x").unwrap(), root.join("run/nri/x"));
        assert_eq!(files.text("/var/up/x").unwrap(), "here");
        assert_eq!(files.names("/var/run/nri"), ["x"]);
        assert_eq!(files.path("/var/run/none/at/all").unwrap(), root.join("run/none/at/all"));
        assert_eq!(files.path("/var/circle").unwrap_err().raw_os_error(), Some(nix::libc::ELOOP));
        assert!(files.has("/var/run") && !files.has("/var/circle"));
    }
}
