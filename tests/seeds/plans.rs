//! One test for each plan.

use std::net::Ipv4Addr;

use sriov_dra::demo::world::Shape;

use crate::nodes::{OnNode, Plan, start};
use crate::wire::assert_reach;

fn ports(vfs: u32) -> Shape {
    Shape { pfs: (1..=8).map(|n| format!("eno3np{n}")).collect(), vfs, infiniband: false, number: 0 }
}

fn nothing(_: usize, _: &Shape) -> Vec<String> {
    Vec::new()
}

/// A gateway for each rail, as the leaf switch has it.
fn gateways() -> String {
    let add = (1..=8).map(|n| format!("ip addr add 172.16.1{n}.254/24 dev rail{n}"));
    add.collect::<Vec<_>>().join(" && ")
}

/// The pod's default route is the one that was there, and `count` interfaces came on top.
fn assert_beside_eth0(pod: &OnNode, node: usize, count: usize) {
    assert_eq!(pod.says("ip route show default"), [format!("default via 10.244.{node}.1 dev eth0")]);
    let links = pod.says("ip -o link");
    assert_eq!(links.iter().filter(|line| line.contains(": net")).count(), count, "{links:#?}");
    assert_eq!(pod.addresses().len(), count);
}

/// The rule of interface net{n}, the only one of its priority; and all of its table.
fn assert_table(pod: &OnNode, n: u32, address: Ipv4Addr, table: &[String]) {
    let (priority, number) = (32000 + n, 100 + n);
    let rules = pod.says("ip rule");
    let own: Vec<_> = rules.iter().filter(|line| line.starts_with(&format!("{priority}:"))).collect();
    let [own] = &own[..] else { panic!("{rules:#?}") };
    assert!(own.starts_with(&format!("{priority}: from {address} lookup {number}")), "{own}");
    assert_eq!(pod.says(&format!("ip route show table {number}")), table, "table {number}");
}

fn line(head: &str, n: u32, rest: &str, address: Ipv4Addr) -> String {
    format!("{head} dev net{n} proto static {rest}src {address}")
}

/// Solution 1 of the RoCE guide and the InfiniBand guide show the same pod.
fn assert_subnet_per_rail(pods: &[OnNode; 2]) {
    for (node, pod) in pods.iter().enumerate() {
        assert_beside_eth0(pod, node, 8);
        for (n, address) in pod.addresses() {
            let [a, b, c, d] = address.octets();
            assert_eq!((a, b, u32::from(c)), (172, 16, 10 + n), "net{n} is on rail {n}");
            assert!((1..=200).contains(&d), "{address}");
            let gateway = format!("default via 172.16.1{n}.254");
            let subnet = format!("172.16.1{n}.0/24");
            assert_table(
                pod,
                n,
                address,
                &[line(&gateway, n, "", address), line(&subnet, n, "scope link ", address)],
            );
        }
    }
    assert_eq!(assert_reach(pods, |n, m| n == m), 16, "8 rails, from both ends");
}

#[test]
fn a_subnet_for_each_rail_as_spiderpools_first_solution_has_it() {
    let plan = Plan {
        file: "spiderpool-subnet-per-rail.yaml",
        shape: ports(12),
        host: nothing,
        fabric: gateways(),
        one_switch: false,
    };
    let pair = start(plan);
    assert_subnet_per_rail(&pair.pods);
    for pod in &pair.pods {
        let conditions = pod.status.iter().flat_map(|device| device.conditions.iter().flatten());
        let probed = conditions.filter(|condition| condition.type_ == "GatewayReachable");
        let answers: Vec<_> = probed.map(|condition| condition.status.as_str()).collect();
        assert_eq!(answers, ["True"; 8], "the gateway of each rail was asked");
    }
}

#[test]
fn a_subnet_for_each_rail_of_infiniband_as_spiderpool_has_it() {
    let plan = Plan {
        file: "spiderpool-infiniband.yaml",
        shape: Shape { infiniband: true, ..ports(12) },
        host: nothing,
        fabric: gateways(),
        one_switch: false,
    };
    assert_subnet_per_rail(&start(plan).pods);
}

/// Prefix of a port: rail n of node m has 172.16.m.32*(n-1)/27, as the guide's first node.
fn prefix(node: usize, n: u32) -> (String, String) {
    let at = 32 * (n - 1);
    (format!("172.16.{}.{at}/27", node + 1), format!("172.16.{}.{}", node + 1, at + 1))
}

#[test]
fn a_prefix_for_each_port_of_each_node_as_spiderpools_second_solution_has_it() {
    // Ports have the host after the gateway, where the guide's ranges begin.
    let host = |node: usize, shape: &Shape| {
        let ports = shape.pfs.iter().zip(1..).map(|(pf, n)| {
            let at = 32 * (n - 1) + 2;
            format!("ip addr add 172.16.{}.{at}/27 dev {pf}", node + 1)
        });
        ports.collect()
    };
    // The leaf switch of a rail routes between the prefixes of its nodes.
    let routers = (0..2)
        .flat_map(|node| (1..=8).map(move |n| format!("ip addr add {}/27 dev rail{n}", prefix(node, n).1)));
    let quiet = "for f in /proc/sys/net/ipv4/conf/*/send_redirects; do echo 0 > $f; done".to_owned();
    let fabric = routers.chain([quiet, "echo 1 > /proc/sys/net/ipv4/ip_forward".to_owned()]);
    let plan = Plan {
        file: "spiderpool-prefix-per-node.yaml",
        shape: ports(12),
        host,
        fabric: fabric.collect::<Vec<_>>().join(" && "),
        one_switch: false,
    };
    let pair = start(plan);
    for (node, pod) in pair.pods.iter().enumerate() {
        assert_beside_eth0(pod, node, 8);
        for (n, address) in pod.addresses() {
            let (subnet, gateway) = prefix(node, n);
            let inside: ipnet::Ipv4Net = subnet.parse().unwrap();
            assert!(
                inside.contains(&address) && !address.to_string().ends_with(".2"),
                "{address} of {subnet}"
            );
            let mut table = vec![line(&format!("default via {gateway}"), n, "", address)];
            table.extend((n == 1).then(|| line(&format!("172.16.0.0/16 via {gateway}"), n, "", address)));
            table.push(line(&subnet, n, "scope link ", address));
            assert_table(pod, n, address, &table);
            assert!(pod.says(&format!("ip -o link show net{n}"))[0].contains("mtu 4200"));
        }
        let main = pod.says("ip route show table main");
        let wide: Vec<_> = main.iter().filter(|line| line.starts_with("172.16.0.0/16")).collect();
        let first = format!("172.16.0.0/16 via {} dev net1 ", prefix(node, 1).1);
        assert!(wide.len() == 1 && wide[0].starts_with(&first), "{main:#?}");
    }
    assert_eq!(assert_reach(&pair.pods, |n, m| n == m), 16, "8 rails, from both ends");
}

#[test]
fn an_interface_of_the_infiniband_network_as_jarvice_has_it() {
    let plan = Plan {
        file: "jarvice-ipoib.yaml",
        shape: Shape { pfs: vec!["ib0".to_owned()], vfs: 8, infiniband: true, number: 0 },
        host: nothing,
        fabric: String::new(),
        one_switch: false,
    };
    let pair = start(plan);
    for (node, pod) in pair.pods.iter().enumerate() {
        assert_beside_eth0(pod, node, 1);
        let address = pod.addresses()[&1];
        assert_eq!(address.octets()[..3], [192, 168, 0]);
        assert_table(pod, 1, address, &[line("192.168.0.0/24", 1, "scope link ", address)]);
    }
    assert_eq!(assert_reach(&pair.pods, |n, m| n == m), 2);
}

#[test]
fn sixteen_vfs_of_one_subnet_in_a_pod_as_oke_has_them() {
    let plan = Plan {
        file: "oke-16-vfs.yaml",
        shape: Shape {
            pfs: (0..16).map(|n| format!("rdma{n}")).collect(),
            vfs: 1,
            infiniband: false,
            number: 0,
        },
        host: nothing,
        fabric: "ip addr add 192.168.0.1/16 dev rail1".to_owned(),
        one_switch: true,
    };
    let pair = start(plan);
    for (node, pod) in pair.pods.iter().enumerate() {
        assert_beside_eth0(pod, node, 16);
        for (n, address) in pod.addresses() {
            assert_eq!(address.octets()[..2], [192, 168]);
            let table = [
                line("default via 192.168.0.1", n, "", address),
                line("192.168.0.0/16", n, "scope link ", address),
            ];
            assert_table(pod, n, address, &table);
            assert!(pod.says(&format!("ip -o link show net{n}"))[0].contains("mtu 4220"));
            for (key, wanted) in [
                ("arp_announce", 2),
                ("arp_filter", 1),
                ("arp_ignore", 1),
                ("rp_filter", 0),
                ("accept_local", 1),
            ] {
                let values = pod.says(&format!("cd /proc/sys/net/ipv4/conf && cat all/{key} net{n}/{key}"));
                let effective = values.iter().map(|value| value.parse::<u8>().unwrap()).max();
                assert_eq!(effective, Some(wanted), "net{n}: {key} is {values:?} in `all` and the interface");
            }
        }
    }
    // One switch: not only those of the same port reach each other.
    assert_eq!(assert_reach(&pair.pods, |_, _| true), 512, "16 interfaces with 16, from both ends");
}
