//! Variables that name a container's RDMA devices, and where its topology file is.

use super::Net;
use crate::device::LinkType;

/// Where a container finds its topology file.
pub const TOPOLOGY_FILE: &str = "/run/sriov-dra/nccl-topology.xml";

/// Key and value for each; the caller leaves out what the user set. `file`: there is a topology file.
///
/// - `NCCL_IB_HCA`: `=` is for exact names, else `mlx5_1` would be `mlx5_18` too. VFs have one port.
/// - No GID index: NCCL before 2.21 takes 0, which is RoCE v1, and 3 is only usually right. Later ones look for a RoCE v2
///   GID of the family in `NCCL_IB_ADDR_FAMILY`, which is IPv4 unless said.
/// - `UCX_NET_DEVICES`: UCX finds GIDs itself (`UCX_IB_GID_INDEX=auto`).
pub fn variables(nets: &[Net], file: bool) -> Vec<(String, String)> {
    if nets.is_empty() {
        return Vec::new();
    }
    let ports: Vec<String> = nets.iter().map(|net| format!("{}:1", net.name)).collect();
    let ports = ports.join(",");
    let mut variables =
        vec![("NCCL_IB_HCA".to_owned(), format!("={ports}")), ("UCX_NET_DEVICES".to_owned(), ports)];
    let roce = nets.iter().filter(|net| net.link_type != Some(LinkType::Infiniband));
    let addresses: Vec<_> = roce.flat_map(|net| &net.addresses).collect();
    if !addresses.is_empty() && addresses.iter().all(|address| address.addr().is_ipv6()) {
        variables.push(("NCCL_IB_ADDR_FAMILY".to_owned(), "AF_INET6".to_owned()));
    }
    if file {
        variables.push(("NCCL_TOPO_FILE".to_owned(), TOPOLOGY_FILE.to_owned()));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(name: &str, link_type: LinkType, addresses: &[&str]) -> Net {
        Net {
            name: name.into(),
            place: "0000:0c:00.0".parse().unwrap(),
            link_type: Some(link_type),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    fn told(nets: &[Net], file: bool) -> Vec<String> {
        variables(nets, file).into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    #[test]
    fn exactly_the_containers_devices_are_named_for_nccl_and_ucx() {
        let nets = [
            net("mlx5_18", LinkType::Ethernet, &["10.0.0.1/24"]),
            net("mlx5_1", LinkType::Ethernet, &["fd00::1/64"]),
        ];
        let both = ["NCCL_IB_HCA==mlx5_18:1,mlx5_1:1", "UCX_NET_DEVICES=mlx5_18:1,mlx5_1:1"];
        assert_eq!(told(&nets, false), both, "one address of IPv4 is enough for NCCL's own choice");
        assert_eq!(told(&nets, true)[2], "NCCL_TOPO_FILE=/run/sriov-dra/nccl-topology.xml");
        assert_eq!(told(&nets[1..], false)[2], "NCCL_IB_ADDR_FAMILY=AF_INET6");
        assert_eq!(told(&[net("mlx5_2", LinkType::Infiniband, &["fd00::1/64"])], false).len(), 2);
        assert!(told(&[], true).is_empty());
    }
}
