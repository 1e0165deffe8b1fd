//! Sockets of instances that died without unlinking them: the kubelet would try to reach them for ever.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// An instance that has bound its socket and does not listen yet refuses connections as a dead one does.
const YOUNG: Duration = Duration::from_secs(60);

/// Removes this driver's sockets on which nobody listens, in `plugins/<driver>` and `plugins_registry`; returns which.
/// Blocks on the disk only.
pub fn remove_dead_sockets(kubelet_dir: &Path, driver: &str) -> Vec<PathBuf> {
    let own = kubelet_dir.join("plugins").join(driver);
    let registry = kubelet_dir.join("plugins_registry");
    let mut removed = Vec::new();
    for folder in [&own, &registry] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = if *folder == registry { registers(&name, driver) } else { name.ends_with(".sock") };
            let Ok(meta) = entry.metadata() else { continue };
            let age = meta.modified().ok().and_then(|then| SystemTime::now().duration_since(then).ok());
            if !ours || !meta.file_type().is_socket() || age.is_none_or(|age| age < YOUNG) {
                continue;
            }
            if is_refused(&entry.path()) && std::fs::remove_file(entry.path()).is_ok() {
                removed.push(entry.path());
            }
        }
    }
    removed
}

/// Nobody listens. Without waiting: a listener that is busy (EAGAIN, unix(7)) lives.
fn is_refused(path: &Path) -> bool {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let Ok(socket) = socket(AddressFamily::Unix, SockType::Stream, flags, None) else { return false };
    UnixAddr::new(path).is_ok_and(|address| connect(socket.as_raw_fd(), &address) == Err(Errno::ECONNREFUSED))
}

/// `<driver>@reg.sock` and `<driver>-<pod UID>@reg.sock`. Driver `a` must not take what belongs to driver `a-b`.
fn registers(name: &str, driver: &str) -> bool {
    let Some(rest) = name.strip_suffix("@reg.sock").and_then(|stem| stem.strip_prefix(driver)) else {
        return false;
    };
    let is_uid = |uid: &str| {
        let parts: Vec<usize> = uid.split('-').map(str::len).collect();
        parts == [8, 4, 4, 4, 12] && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
    };
    rest.is_empty() || rest.strip_prefix('-').is_some_and(is_uid)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    const UID: &str = "c0ffee00-1111-4222-8333-444455556666";

    #[test]
    fn sockets_of_dead_instances_go_and_those_of_the_living_the_young_and_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let plugins = dir.path().join("plugins/a");
        let registry = dir.path().join("plugins_registry");
        std::fs::create_dir_all(&plugins).unwrap();
        std::fs::create_dir_all(&registry).unwrap();
        let old = |path: PathBuf, alive: bool| {
            let listener = UnixListener::bind(&path).unwrap();
            let then = SystemTime::now() - YOUNG * 2;
            let times =
                [nix::sys::time::TimeSpec::from(then.duration_since(SystemTime::UNIX_EPOCH).unwrap()); 2];
            nix::sys::stat::utimensat(
                nix::fcntl::AT_FDCWD,
                &path,
                &times[0],
                &times[1],
                nix::sys::stat::UtimensatFlags::NoFollowSymlink,
            )
            .unwrap();
            alive.then_some(listener)
        };
        let dead = [plugins.join("dra.sock"), registry.join(format!("a-{UID}@reg.sock"))];
        dead.iter().for_each(|path| drop(old(path.clone(), false)));
        let alive = old(registry.join("a@reg.sock"), true);
        old(registry.join("a-b@reg.sock"), false);
        std::fs::write(plugins.join("plain.sock"), "").unwrap();
        drop(UnixListener::bind(plugins.join("young.sock")).unwrap());

        let mut removed = remove_dead_sockets(dir.path(), "a");
        removed.sort();
        assert_eq!(removed, dead);
        assert!(alive.is_some());
        for stays in [registry.join("a@reg.sock"), registry.join("a-b@reg.sock"), plugins.join("young.sock")]
        {
            assert!(stays.exists(), "{}", stays.display());
        }
        assert_eq!(remove_dead_sockets(dir.path(), "a"), Vec::<PathBuf>::new());
    }
}
