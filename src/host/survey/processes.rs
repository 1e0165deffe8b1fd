//! Processes that a doctor asks after, as `/proc` shows them to anybody.

use std::fs;
use std::path::Path;

/// A process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Its ID in the namespace that `/proc` shows.
    pub pid: i32,
    /// `comm`: at most 15 bytes of the program's name.
    pub name: String,
    /// Arguments, the program first.
    pub args: Vec<String>,
    /// Memory it may lock.
    pub memlock: Option<Memlock>,
    /// Effective capabilities, a bit each (include/uapi/linux/capability.h).
    pub capabilities: Option<u64>,
    /// Its mounts (proc(5), mountinfo), where this process may look.
    pub mounts: Option<String>,
}

/// RLIMIT_MEMLOCK in bytes; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memlock {
    /// In force.
    pub soft: Option<u64>,
    /// What the process may raise it to by itself.
    pub hard: Option<u64>,
}

impl Process {
    /// The value of an option, written `--name value`, `--name=value`, or for one letter `-n value`.
    pub fn option(&self, names: &[&str]) -> Option<&str> {
        let mut args = self.args.iter().skip(1);
        while let Some(arg) = args.next() {
            match arg.split_once('=') {
                Some((name, value)) if names.contains(&name) => return Some(value),
                None if names.contains(&arg.as_str()) => return args.next().map(String::as_str),
                _ => {}
            }
        }
        None
    }
}

/// Every process whose `comm` is asked for, by PID; none when `/proc` can't be listed.
pub fn named(proc: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<Process> {
    let mut found: Vec<Process> = fs::read_dir(proc)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(entry.path().join("comm")).ok()?.trim_end().to_owned();
            wanted(&name).then(|| read(&entry.path(), pid, name))
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

fn read(folder: &Path, pid: i32, name: String) -> Process {
    let text = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let args = text("cmdline").unwrap_or_default();
    Process {
        pid,
        name,
        args: args.split_terminator('\0').map(str::to_owned).collect(),
        memlock: text("limits").as_deref().and_then(memlock),
        capabilities: text("status").as_deref().and_then(capabilities),
        mounts: text("mountinfo"),
    }
}

/// The line `Max locked memory  8388608  8388608  bytes` (proc(5), limits).
fn memlock(limits: &str) -> Option<Memlock> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    let mut values = line.split_whitespace();
    let mut value = || match values.next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some(Memlock { soft: value()?, hard: value()? })
}

/// `CapEff:` of a process's status.
pub fn capabilities(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_options_are_read_as_the_kernel_and_people_write_them() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max locked memory         8388608              unlimited            bytes     \n";
        assert_eq!(memlock(limits), Some(Memlock { soft: Some(8 << 20), hard: None }));
        assert_eq!(memlock("Max open files 1 2 files\n"), None);
        let args = ["containerd", "-c", "/a.toml", "--address=/x.sock", "--log-level", "info"];
        let process = Process { args: args.map(str::to_owned).to_vec(), ..Process::default() };
        assert_eq!(process.option(&["--config", "-c"]), Some("/a.toml"));
        assert_eq!(process.option(&["--address", "-a"]), Some("/x.sock"));
        assert_eq!(process.option(&["--root"]), None);
    }

    #[test]
    fn processes_are_found_by_name_with_what_they_may() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, name) in [("12", "containerd"), ("7", "crio"), ("3", "bash")] {
            let folder = proc.path().join(pid);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("comm"), format!("{name}\n")).unwrap();
            fs::write(folder.join("cmdline"), format!("/usr/bin/{name}\0--x\0")).unwrap();
            fs::write(folder.join("status"), "Name:\tx\nCapEff:\t0000000001000000\n").unwrap();
        }
        let found = named(proc.path(), &|name| name != "bash");
        assert_eq!(
            found.iter().map(|p| (p.pid, p.name.as_str())).collect::<Vec<_>>(),
            [(7, "crio"), (12, "containerd")]
        );
        assert_eq!(found[1].args, ["/usr/bin/containerd", "--x"]);
        assert_eq!((found[0].capabilities, found[0].memlock), (Some(1 << 24), None));
    }
}
