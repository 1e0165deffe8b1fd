//! Which of a function's netdevs is its own.
//!
//! In switchdev a PF's `net/` holds the representors of its VFs too; an IPoIB function's holds its children; an mlx4
//! function's has a netdev for each of two ports.

use crate::host::sysfs::FoundNetdev;

/// The function's own netdev, and the others that are stacked on it or belong to another port of it. Representors are
/// neither.
pub(super) fn choose(found: &[FoundNetdev]) -> (Option<&FoundNetdev>, Vec<&FoundNetdev>) {
    // Plain numbers as port names (older drivers) mean representors only beside an uplink that has a switch too.
    let mut own: Vec<&FoundNetdev> = found.iter().filter(|f| !is_representor(f)).collect();
    own.sort_by_key(|f| (!is_uplink_port(f), f.is_child, f.dev_port, f.netdev.ifindex));
    let uplink_known = own.first().is_some_and(|f| is_uplink_port(f));
    if uplink_known {
        own.retain(|f| !is_numbered_port(f));
    }
    let mut own = own.into_iter();
    (own.next(), own.collect())
}

/// Any netdev of the function speaks for a VF, a PF or a subfunction behind the embedded switch.
pub(super) fn is_representor(found: &FoundNetdev) -> bool {
    // c1pf0vf3, pf0vf3, pf0sf88, pf0 (the host's PF on a DPU); net/devlink/port.c, devlink_nl_port_phys_name.
    let Some(port) = found.netdev.phys_port_name.as_deref() else {
        return false;
    };
    let port = match port.strip_prefix('c').and_then(after_number) {
        Some(rest) => rest,
        None => port,
    };
    let Some(rest) = port.strip_prefix("pf").and_then(after_number) else {
        return false;
    };
    let function = rest.strip_prefix("vf").or_else(|| rest.strip_prefix("sf"));
    rest.is_empty() || function.and_then(after_number) == Some("")
}

/// `p0`, or `p0s1` of a split port.
fn is_uplink_port(found: &FoundNetdev) -> bool {
    let rest =
        found.netdev.phys_port_name.as_deref().and_then(|port| port.strip_prefix('p')).and_then(after_number);
    rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('s').and_then(after_number) == Some(""))
}

fn is_numbered_port(found: &FoundNetdev) -> bool {
    found.netdev.phys_switch_id.is_some()
        && found.netdev.phys_port_name.as_deref().and_then(after_number) == Some("")
}

/// What follows a number of at least one digit.
fn after_number(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    (rest.len() < text.len()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Netdev;

    fn found(name: &str, port: Option<&str>, dev_port: u32, is_child: bool, ifindex: u32) -> FoundNetdev {
        let netdev = Netdev {
            name: name.into(),
            ifindex,
            arphrd: 1,
            hw_addr: None,
            mtu: None,
            max_mtu: None,
            oper_state: None,
            up: false,
            speed_mbps: None,
            phys_port_name: port.map(Into::into),
            phys_switch_id: port.map(|_| "a0".into()),
            master: None,
            uppers: vec![],
            addresses: vec![],
            uplink: false,
        };
        FoundNetdev { netdev, dev_port, is_child }
    }

    fn chosen(found: &[FoundNetdev]) -> (Option<&str>, Vec<&str>) {
        let (own, others) = choose(found);
        (own.map(|f| f.netdev.name.as_str()), others.iter().map(|f| f.netdev.name.as_str()).collect())
    }

    #[test]
    fn representors_of_every_naming_are_told_from_the_uplink() {
        for port in ["pf0vf3", "pf1vf127", "c1pf0vf3", "pf0sf88", "pf0", "c1pf0"] {
            let all = [found("rep", Some(port), 0, false, 3), found("up", Some("p0"), 0, false, 9)];
            assert_eq!(chosen(&all), (Some("up"), vec![]), "{port}");
            assert_eq!(chosen(&all[..1]), (None, vec![]), "{port} alone is nobody's own netdev");
        }
        let numbered = [found("rep", Some("3"), 0, false, 3), found("up", Some("p0"), 0, false, 9)];
        assert_eq!(chosen(&numbered), (Some("up"), vec![]));
        let split = [found("up", Some("p0s1"), 0, false, 9)];
        assert_eq!(chosen(&split), (Some("up"), vec![]));
    }

    #[test]
    fn port_names_that_mean_nothing_special_hide_no_netdev() {
        for port in ["3", "pfx", "p", "pf0vf", "cpf0vf1", "uplink"] {
            assert_eq!(chosen(&[found("eth", Some(port), 0, false, 3)]).0, Some("eth"), "{port}");
        }
    }

    #[test]
    fn a_parent_goes_before_its_children_and_port_0_before_port_1() {
        let ipoib = [found("ib0.8001", None, 0, true, 3), found("ib0", None, 0, false, 9)];
        assert_eq!(chosen(&ipoib), (Some("ib0"), vec!["ib0.8001"]));
        let two_ports = [found("second", None, 1, false, 3), found("first", None, 0, false, 9)];
        assert_eq!(chosen(&two_ports), (Some("first"), vec!["second"]));
        assert_eq!(chosen(&[]), (None, vec![]));
    }
}
