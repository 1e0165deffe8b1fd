//! The topology file that containers get, made of a sysfs tree: two sockets, 8 GPUs, 16 ports with a VF each, as the
//! machines have that NCCL is run on. An XML parser is the witness for its structure, and a reader with the rules of NCCL's
//! own (src/graph/xml.cc) for its letters.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // clippy sees helpers of tests as no tests

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use roxmltree::{Document, Node};
use sriov_dra::device::{LinkType, PciAddress};
use sriov_dra::host::sysfs::tree::{Card, FakeSysfs, Tree};
use sriov_dra::host::topology::{Topology, read};
use sriov_dra::nccl::{Net, topology};

/// Buses of the eight root ports; the first four are the first socket's.
const ROOTS: [u8; 8] = [0x00, 0x20, 0x40, 0x60, 0x80, 0xa0, 0xc0, 0xe0];

struct Machine {
    tree: FakeSysfs,
    /// VF and its RDMA device, by PF.
    vfs: Vec<(PciAddress, PciAddress, String)>,
}

impl Machine {
    /// Below each root port a switch, and below that a GPU and two ports of 200 Gbit/s.
    fn build() -> Self {
        let mut tree = Tree::new();
        let mut vfs = Vec::new();
        for (index, root) in ROOTS.into_iter().enumerate() {
            let numa_node = i32::try_from(index / 4).unwrap();
            let path = |slot: u8| {
                let parts = [
                    format!("pci0000:{root:02x}"),
                    format!("0000:{root:02x}:01.0"),
                    format!("0000:{:02x}:00.0", root + 1),
                    format!("0000:{:02x}:{slot:02x}.0", root + 2),
                ];
                parts.to_vec()
            };
            let gpu = format!("0000:{:02x}:00.0", root + 3);
            let gpu = Card {
                class: 0x0003_0200,
                vendor: 0x10de,
                netdevs: vec![],
                ..Card::ethernet(&gpu, "", "nvidia")
            };
            tree = tree.card(Card { path: path(0), numa_node, ..gpu });
            for port in 0..2u8 {
                let number = index * 2 + usize::from(port);
                let pf = format!("0000:{:02x}:00.0", root + 4 + port * 2);
                let mut card = Card::ethernet(&pf, &format!("ens{number}np0"), "mlx5_core");
                card.netdevs[0].speed = Some(200_000);
                // As many VFs as such a card has, the last in use: it lies on the next bus.
                card.offset = if number == 15 { 0x108 } else { 2 };
                let card = Card { path: path(port + 1), numa_node, ..card.rdma(&format!("mlx5_{number}")) };
                let card = card.vfs(1, |_, mut vf| {
                    vf.rdma = Some(format!("mlx5_{}", 18 + number));
                    vf
                });
                vfs.push((card.vf_address(0).unwrap(), pf.parse().unwrap(), format!("mlx5_{}", 18 + number)));
                tree = tree.card(card);
            }
        }
        let tree = tree.build().unwrap();
        let machine = Self { tree, vfs };
        machine.write_the_rest();
        machine
    }

    /// Links and bridges, NUMA nodes, the processor.
    fn write_the_rest(&self) {
        let root = self.tree.root();
        let write = |path: &Path, file: &str, text: &str| {
            fs::create_dir_all(path).unwrap();
            fs::write(path.join(file), format!("{text}\n")).unwrap();
        };
        let functions: Vec<_> = fs::read_dir(root.join("bus/pci/devices")).unwrap().flatten().collect();
        for function in functions {
            let real = fs::canonicalize(function.path()).unwrap();
            let is_vf = real.join("physfn").exists();
            write(&real, "max_link_speed", if is_vf { "Unknown" } else { "32.0 GT/s PCIe" });
            write(&real, "max_link_width", if is_vf { "0" } else { "16" });
            for folder in real.ancestors().skip(1) {
                let name = folder.file_name().unwrap().to_str().unwrap();
                if name.parse::<PciAddress>().is_err() {
                    break;
                }
                let bus = root.join("bus/pci/devices").join(name);
                if bus.exists() {
                    continue;
                }
                // Of a switch, its upstream port and the port above the GPU (device 0 both) are slower.
                let speed = if name.ends_with("00.0") { "16.0 GT/s PCIe" } else { "32.0 GT/s PCIe" };
                let numa = fs::read_to_string(real.join("numa_node")).unwrap();
                for (file, text) in [
                    ("class", "0x060400"),
                    ("vendor", "0x104c"),
                    ("device", "0x8232"),
                    ("max_link_speed", speed),
                    ("max_link_width", "16"),
                    ("numa_node", numa.trim()),
                ] {
                    write(folder, file, text);
                }
                symlink(folder, bus).unwrap();
            }
        }
        for (node, mask) in [("node0", "00000000,00ffffff"), ("node1", "ffffff00,00000000")] {
            write(&root.join("devices/system/node").join(node), "cpumap", mask);
        }
        let processor =
            "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nflags\t: fpu";
        write(&root.with_file_name("proc"), "cpuinfo", processor);
    }

    fn topology(&self) -> Topology {
        let places: Vec<PciAddress> = self.vfs.iter().map(|(_, pf, _)| *pf).collect();
        read(self.tree.root(), &self.tree.root().with_file_name("proc"), &places)
    }

    fn nets(&self, wanted: impl Fn(usize) -> bool) -> Vec<Net> {
        let net = |(_, pf, name): &(PciAddress, PciAddress, String)| Net {
            name: name.clone(),
            place: *pf,
            link_type: Some(LinkType::Ethernet),
            addresses: vec![],
        };
        self.vfs.iter().enumerate().filter(|(number, _)| wanted(*number)).map(|(_, vf)| net(vf)).collect()
    }
}

fn named<'a>(node: Node<'a, 'a>, name: &'static str) -> impl Iterator<Item = Node<'a, 'a>> {
    node.descendants().filter(move |node| node.has_tag_name(name))
}

#[test]
fn every_vf_stands_below_the_switch_of_its_port_beside_the_gpu_there() {
    let machine = Machine::build();
    let text = topology(&machine.topology(), &machine.nets(|_| true)).unwrap();
    let document = Document::parse(&text).unwrap();
    let system = document.root_element();
    assert_eq!((system.tag_name().name(), system.attribute("version")), ("system", Some("1")));
    let cpus: Vec<_> = system.children().filter(Node::is_element).collect();
    assert_eq!(cpus.len(), 2);
    for (socket, cpu) in cpus.iter().enumerate() {
        let attributes: Vec<_> = cpu.attributes().map(|a| (a.name(), a.value())).collect();
        let affinity = ["00000000,00ffffff", "ffffff00,00000000"][socket];
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { std::env::consts::ARCH };
        assert_eq!(
            attributes,
            [
                ("numaid", ["0", "1"][socket]),
                ("affinity", affinity),
                ("arch", arch),
                ("vendor", "GenuineIntel"),
                ("familyid", "6"),
                ("modelid", "143"),
            ]
        );
        let switches: Vec<_> = cpu.children().filter(Node::is_element).collect();
        assert_eq!(switches.len(), 4, "one for each root port");
        for (number, switch) in switches.iter().enumerate() {
            let index = socket * 4 + number;
            let root = ROOTS[index];
            let at = |node: &Node<'_, '_>| node.attribute("busid").unwrap().to_owned();
            assert_eq!(
                at(switch),
                format!("0000:{:02x}:00.0", root + 1),
                "the upstream port stands for the switch"
            );
            assert_eq!(switch.attribute("class"), Some("0x060400"));
            assert_eq!(switch.attribute("link_speed"), Some("16.0 GT/s PCIe"), "the slower end of the link");
            let below: Vec<_> = switch.children().filter(Node::is_element).collect();
            let wanted = [root + 3, root + 4, root + 6].map(|bus| format!("0000:{bus:02x}:00.0"));
            assert_eq!(below.iter().map(at).collect::<Vec<_>>(), wanted);
            assert_eq!(below[0].attribute("class"), Some("0x030200"));
            assert_eq!(below[0].attribute("vendor"), Some("0x10de"));
            assert_eq!(
                below[0].attribute("link_speed"),
                Some("16.0 GT/s PCIe"),
                "the port above is no faster"
            );
            assert!(!below[0].has_children(), "NCCL itself says what a GPU is");
            for (port, pci) in below[1..].iter().enumerate() {
                assert_eq!(pci.attribute("class"), Some("0x020000"));
                assert_eq!(
                    (pci.attribute("link_speed"), pci.attribute("link_width")),
                    (Some("32.0 GT/s PCIe"), Some("16"))
                );
                let net = pci.first_element_child().unwrap().first_element_child().unwrap();
                assert_eq!((net.tag_name().name(), net.parent().unwrap().tag_name().name()), ("net", "nic"));
                let said: Vec<_> = net.attributes().map(|a| (a.name(), a.value().to_owned())).collect();
                let name = format!("mlx5_{}", 18 + index * 2 + port);
                assert_eq!(said, [("name", name), ("speed", "200000".to_owned())]);
            }
        }
    }
    assert_eq!((named(system, "net").count(), named(system, "gpu").count()), (16, 0));
}

#[test]
fn a_containers_file_has_its_own_vfs_and_all_gpus_and_numa_nodes() {
    let machine = Machine::build();
    let some = [1, 15];
    let text = topology(&machine.topology(), &machine.nets(|number| some.contains(&number))).unwrap();
    let document = Document::parse(&text).unwrap();
    let system = document.root_element();
    let nets: Vec<_> = named(system, "net").map(|net| net.attribute("name").unwrap()).collect();
    assert_eq!(nets, ["mlx5_19", "mlx5_33"]);
    let gpus = named(system, "pci").filter(|pci| pci.attribute("class") == Some("0x030200"));
    assert_eq!((gpus.count(), named(system, "cpu").count()), (8, 2));
    // Its own address would be taken for another card by NCCL: it lies on another bus than its port.
    let (vf, pf, _) = &machine.vfs[15];
    assert_ne!(vf.bus, pf.bus);
    let last = named(system, "net").last().unwrap();
    let place = last.ancestors().find(|node| node.has_tag_name("pci")).unwrap();
    assert_eq!(place.attribute("busid").map(str::to_owned), Some(pf.to_string()));

    assert_eq!(topology(&machine.topology(), &[]), None);
    let mut odd = machine.nets(|number| number == 1);
    odd[0].name = "mlx5\"<&".into();
    assert_eq!(
        topology(&machine.topology(), &odd),
        None,
        "a name that NCCL's reader would take for something else"
    );
    odd[0].name = "mlx5_19".into();
    odd[0].place = "0000:77:00.0".parse().unwrap();
    assert_eq!(topology(&machine.topology(), &odd), None, "nobody knows where that is");
}

#[test]
fn two_vfs_of_one_port_share_its_link_and_an_unknown_numa_node_is_said_as_nccl_says_it() {
    let card = Card::ethernet("0000:0c:00.0", "ens1", "mlx5_core").rdma("mlx5_0").vfs(2, |_, vf| vf);
    let card = Card { numa_node: -1, path: vec!["pci0000:0c".into()], ..card };
    let tree = Tree::new().card(card).build().unwrap();
    let place: PciAddress = "0000:0c:00.0".parse().unwrap();
    let found = read(tree.root(), Path::new("/nowhere"), &[place]);
    let net = |name: &str| Net { name: name.into(), place, link_type: None, addresses: vec![] };
    let text = topology(&found, &[net("a"), net("b")]).unwrap();
    let document = Document::parse(&text).unwrap();
    let pci: Vec<_> = named(document.root_element(), "pci").collect();
    assert_eq!((pci.len(), named(pci[0], "nic").count(), named(pci[0], "net").count()), (1, 1, 2));
    let said = (pci[0].attribute("link_speed"), pci[0].attribute("link_width"));
    assert_eq!(said, (Some(""), Some("0")), "not known, which NCCL takes; left out it gives up");
    assert_eq!(pci[0].parent().unwrap().attribute("numaid"), Some("-1"));
}

/// Reads as `xmlGetNode` does: what it would stumble over is a panic. Gives the names of all elements.
fn read_as_nccl(text: &str) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    let mut all = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\n', '\r']);
        if rest.is_empty() {
            assert!(open.is_empty(), "not closed: {open:?}");
            return all;
        }
        let element = rest.strip_prefix('<').expect("an element");
        let (inside, after) = element.split_once('>').expect("its end");
        rest = after;
        if let Some(name) = inside.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        let (inside, single) = inside.strip_suffix('/').map_or((inside, false), |inside| (inside, true));
        let mut words = inside.split('"');
        let mut head = words.next().unwrap();
        let name = head.split(' ').next().unwrap().to_owned();
        assert!(name.bytes().all(|b| b.is_ascii_lowercase()), "{name:?}: no declaration, no tab");
        head = &head[name.len()..];
        let mut count = 0;
        // One space before each attribute, the value in quotation marks right after the =.
        while let Some(value) = words.next() {
            let key = head.strip_prefix(' ').and_then(|key| key.strip_suffix('=')).expect(inside);
            assert!(!key.is_empty() && !key.contains(' ') && value.len() < 255, "{inside}");
            count += 1;
            head = words.next().unwrap();
        }
        assert!(head.is_empty() && count <= 16, "{inside}");
        if !single {
            open.push(name.clone());
        }
        all.push(name);
    }
}

#[test]
fn a_reader_with_the_rules_of_nccls_reads_all_of_it() {
    let machine = Machine::build();
    let text = topology(&machine.topology(), &machine.nets(|_| true)).unwrap();
    let elements = read_as_nccl(&text);
    assert_eq!(
        elements.len(),
        1 + 2 + 8 + 8 + 16 * 3,
        "system, processors, switches, GPUs, ports with their VFs"
    );
    assert!(elements.len() <= 256);
    let kinds: BTreeSet<&str> = elements.iter().map(String::as_str).collect();
    assert_eq!(kinds, BTreeSet::from(["cpu", "net", "nic", "pci", "system"]));
}
