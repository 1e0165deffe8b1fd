//! A container's variables: which claims it has, what has to be corrected, and the lists over all its claims. Pure.

use std::collections::BTreeSet;

use crate::prepare::cdi;
use crate::prepare::records::{Entry, VfEntry};

/// The claims whose CDI devices a container got, by UID.
pub(super) fn claims_named(env: &[String]) -> Vec<String> {
    let named: BTreeSet<String> = env.iter().filter_map(|line| cdi::claim_uid_of_marker(line)).collect();
    named.into_iter().collect()
}

/// Whether a container names any claim of this driver: cheap, for the many that do not.
pub fn names_a_claim(env: &[String]) -> bool {
    env.iter().any(|line| cdi::claim_uid_of_marker(line).is_some())
}

/// What a container is told beyond its CDI files, as key and value.
///
/// Corrections: a file was read before a name had to give way or an RDMA device was left out, or says a pod's name where
/// the VF stays on the host. The list of a device that was left out is set to nothing: NRI does not pass on a plugin's
/// wish to remove a variable (`adjustEnv`, pkg/adaptation/result.go). Lists over all requests that the container has,
/// whatever claims they are of: no CDI file can hold these, since the next claim's would replace them. What the user set
/// stays.
pub(super) fn to_set(entries: &[Entry], env: &[String]) -> Vec<(String, String)> {
    let now = |key: &str| value_of(env, key);
    let mut variables = Vec::new();
    let mut vfs = Vec::new();
    for entry in entries {
        let mut right = cdi::variables_of(entry);
        for vf in entry.vfs.iter().filter(|vf| vf.rdma_left.is_some()) {
            let prefix = cdi::variable_prefix(&entry.pod_claim_name, vf.top_level_request());
            let key = format!("{prefix}_RDMA_DEVICES");
            // Other VFs of the request may have theirs.
            if right.iter().all(|(known, _)| *known != key) {
                right.push((key, String::new()));
            }
        }
        variables.extend(right.into_iter().filter(|(key, value)| now(key).is_some_and(|now| now != value)));
        vfs.extend(listed(entry, env));
    }
    // As the interfaces of the pod are counted; those that are only watched have no number of their own.
    vfs.sort_by_key(|vf| (vf.admin_access, vf.index));
    let all = cdi::lists_of(vfs.into_iter());
    let unset = all.into_iter().map(|(name, value)| (format!("SRIOV_DRA_{name}"), value));
    variables.extend(unset.filter(|(key, _)| now(key).is_none()));
    variables
}

/// The claim's VFs of requests that the container has.
pub(super) fn listed<'e>(entry: &'e Entry, env: &'e [String]) -> impl Iterator<Item = &'e VfEntry> {
    entry.vfs.iter().filter(move |vf| {
        let prefix = cdi::variable_prefix(&entry.pod_claim_name, vf.top_level_request());
        value_of(env, &format!("{prefix}_PCI_ADDRESSES")).is_some()
    })
}

pub(super) fn value_of<'e>(env: &'e [String], key: &str) -> Option<&'e str> {
    env.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::{ClaimId, PodRef};
    use crate::prepare::records::Progress;

    fn entry(uid: &str, name: &str, vfs: serde_json::Value) -> Entry {
        Entry {
            claim: ClaimId { uid: uid.into(), namespace: "ns".into(), name: name.into() },
            pod_claim_name: name.into(),
            pod: Some(PodRef { uid: "p1".into(), name: "worker".into() }),
            boot_id: "b".into(),
            progress: Progress::Prepared,
            vfs: serde_json::from_value(vfs).unwrap(),
        }
    }

    fn vf(n: u8, request: &str) -> serde_json::Value {
        serde_json::json!({
            "pci": format!("0000:81:00.{n}"), "pf": null, "request": request, "pool": "node-a", "device": "d",
            "index": n, "name": format!("net{n}"),
        })
    }

    /// As its CDI file has them.
    fn lines_of(entry: &Entry) -> Vec<String> {
        cdi::variables_of(entry).into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    #[test]
    fn an_rdma_device_that_is_left_out_after_the_file_was_read_is_named_no_more() {
        let mut with_rdma = vf(2, "b");
        with_rdma["rdma"] = serde_json::json!({"devices": ["mlx5_2"], "way": "namespace", "memlock": "none"});
        let mut entry = entry("c1", "rails", serde_json::json!([with_rdma]));
        let env = lines_of(&entry);
        assert!(env.contains(&"SRIOV_DRA_RAILS_B_RDMA_DEVICES=mlx5_2".to_owned()), "{env:?}");
        let own = [lines_of(&entry), vec!["SRIOV_DRA_RAILS_B_VFIO_GROUPS=9".to_owned()]].concat();
        assert!(!to_set(std::slice::from_ref(&entry), &own).iter().any(|(key, _)| key.contains("_B_")));
        (entry.vfs[0].rdma, entry.vfs[0].rdma_left) = (None, Some("mlx5_2".to_owned()));
        let set = to_set(std::slice::from_ref(&entry), &env);
        assert!(set.contains(&("SRIOV_DRA_RAILS_B_RDMA_DEVICES".to_owned(), String::new())), "{set:?}");
        assert!(!set.iter().any(|(key, _)| key == "SRIOV_DRA_RDMA_DEVICES"), "{set:?}");
        // The other agent of an upgrade, who sees what the first one set, sets nothing again.
        let seen = [lines_of(&entry), set.into_iter().map(|(key, value)| format!("{key}={value}")).collect()];
        assert_eq!(to_set(&[entry], &seen.concat()), []);
    }

    #[test]
    fn a_container_is_told_all_its_vfs_as_its_interfaces_count_and_none_of_requests_it_does_not_list() {
        let mut on_vfio = vf(3, "dpdk");
        on_vfio["vfio"] = true.into();
        on_vfio["vfioGroup"] = "42".into();
        let entries = [
            entry("c1", "rails", serde_json::json!([vf(2, "b"), vf(4, "c")])),
            entry("c2", "other", serde_json::json!([vf(1, "a"), on_vfio])),
        ];
        let all: Vec<String> = entries.iter().flat_map(lines_of).collect();
        let env: Vec<String> = all.into_iter().filter(|line| !line.contains("RAILS_C")).collect();
        let set = |name: &str, value: &str| (format!("SRIOV_DRA_{name}"), value.to_owned());
        let told = [
            set("PCI_ADDRESSES", "0000:81:00.1,0000:81:00.2,0000:81:00.3"),
            set("INTERFACES", "net1,net2"),
            set("VFIO_GROUPS", "42"),
        ];
        assert_eq!(to_set(&entries, &env), told);
        let own = [env, vec!["SRIOV_DRA_INTERFACES=mine".to_owned()]].concat();
        assert_eq!(to_set(&entries, &own), [told[0].clone(), told[2].clone()], "what the user set stays");
    }

    #[test]
    fn a_name_that_gave_way_is_corrected_where_the_container_has_the_variable() {
        let mut entry = entry("c1", "rails", serde_json::json!([vf(2, "b")]));
        let env = lines_of(&entry);
        entry.vfs[0].name = crate::device::IfName::new("net7").unwrap();
        let set = to_set(&[entry], &env);
        assert!(set.contains(&("SRIOV_DRA_RAILS_B_INTERFACES".to_owned(), "net7".to_owned())), "{set:?}");
        assert!(set.contains(&("SRIOV_DRA_INTERFACES".to_owned(), "net7".to_owned())), "{set:?}");
    }
}
