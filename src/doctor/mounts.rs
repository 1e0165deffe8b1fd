//! What `/proc/<pid>/mountinfo` says of one path (proc(5)).

/// The mount that a path is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount<'a> {
    /// Its mount point.
    pub point: &'a str,
    options: &'a str,
    propagates: bool,
}

impl Mount<'_> {
    /// Mounted with an option, as `noexec` or `ro`.
    pub fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|found| found == option)
    }
}

/// The mount that a folder is on; of two at the same point the later one hides the earlier.
pub(super) fn nearest<'a>(mountinfo: &'a str, folder: &str) -> Option<Mount<'a>> {
    let mounts = mountinfo.lines().filter_map(|line| {
        // ID, parent, device, root, mount point, options, optional fields up to a single dash.
        let fields: Vec<&str> = line.split(' ').collect();
        let (point, options) = (*fields.get(4)?, *fields.get(5)?);
        let covers = point == "/" || folder == point || folder.starts_with(&format!("{point}/"));
        let mut optional = fields.get(6..)?.iter().take_while(|field| **field != "-");
        let propagates = optional.any(|field| field.starts_with("shared:") || field.starts_with("master:"));
        covers.then_some(Mount { point, options, propagates })
    });
    mounts.max_by_key(|mount| mount.point.len())
}

/// A mount that gets no mounts from the host shows namespaces made later as empty files.
pub fn no_propagation(mountinfo: &str, folder: &str) -> Option<String> {
    let mount = nearest(mountinfo, folder)?;
    (!mount.propagates).then(|| {
        format!(
            "{folder} does not get mounts from the host: network namespaces of pods that start later can't be opened by \
             path (mount it with mountPropagation: HostToContainer)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_propagation_is_named_and_one_with_is_not() {
        let private = "1 0 0:1 / / rw - overlay o rw\n2 1 0:2 / /run/netns rw - tmpfs t rw\n";
        assert!(no_propagation(private, "/run/netns").is_some_and(|text| text.contains("HostToContainer")));
        let slave = "1 0 0:1 / / rw - overlay o rw\n2 1 0:2 / /run rw master:7 - tmpfs t rw\n";
        assert_eq!(no_propagation(slave, "/run/netns"), None);
    }

    #[test]
    fn the_nearest_and_latest_mount_counts() {
        let table = "1 0 0:1 / / rw shared:1 - ext4 a rw\n2 1 0:2 / /var rw,noexec - ext4 b rw\n\
                     3 1 0:3 / /variable ro - ext4 c rw\n4 1 0:4 / /var rw,relatime - ext4 d rw\n";
        let mount = nearest(table, "/var/lib/kubelet").unwrap();
        assert_eq!((mount.point, mount.has("noexec"), mount.has("rw")), ("/var", false, true));
        assert_eq!(nearest(table, "/variables").unwrap().point, "/");
    }
}
