//! Attach and return on the running kernel: network namespaces, veth pairs in the place of VFs, `ip` as the witness.
//!
//! Needs root, or user namespaces (`unshare -Urnm`). Each test lives in a network namespace of its own, which stands for
//! the host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use sriov_dra::attach::nri::Sandbox;
use sriov_dra::attach::{Attacher, Outbox};
use sriov_dra::claim::{
    ClaimId, ClaimSpec, NameSpec, PodRef, Probe, ResultSpec, WantedProbe, WantedRoute, WantedRouting,
};
use sriov_dra::device::{IfName, PciAddress};
use sriov_dra::host::Linux;
use sriov_dra::host::fate::{Fate, Turn};
use sriov_dra::prepare::engine::Engine;
use sriov_dra::prepare::fake::{FakeFunctions, site};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(3)
}

fn pci(n: u8) -> PciAddress {
    PciAddress { domain: 0, bus: 0x81, device: 0, function: n }
}

fn run(program: &str, args: &str) -> String {
    let out = Command::new(program).args(args.split_whitespace()).output().unwrap();
    assert!(out.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn ip(args: &str) -> String {
    run("ip", args)
}

/// A pod: a process in a network namespace of its own.
struct Pod {
    process: Child,
}

impl Pod {
    fn start() -> Self {
        let host = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let process = Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap();
        let pod = Self { process };
        let until = soon();
        while std::fs::read_link(pod.path()).ok().is_none_or(|ns| ns == host) {
            assert!(Instant::now() < until, "the pod's process does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        pod
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.process.id()))
    }

    fn ip(&self, args: &str) -> String {
        run("nsenter", &format!("--net={} ip {args}", self.path().display()))
    }

    fn sandbox(&self, id: &str) -> Sandbox {
        Sandbox {
            id: id.into(),
            pod_uid: "p1".into(),
            pod_name: "worker".into(),
            pod_namespace: "ns".into(),
            netns: Some(self.path()),
            lists_namespaces: true,
            pid: self.process.id(),
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Host {
    engine: Engine,
    attacher: Attacher,
    _dir: tempfile::TempDir,
}

impl Host {
    fn new(vfs: u8) -> Self {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("network namespaces need root or user namespaces: run under unshare -Urnm");
        let dir = tempfile::tempdir().unwrap();
        let functions = FakeFunctions::default();
        for n in 1..=vfs {
            ip(&format!("link add ens1v{n} type veth peer name wire{n}"));
            ip(&format!("link set ens1v{n} alias {}", pci(n)));
            ip(&format!("link set wire{n} up"));
            std::fs::create_dir_all(dir.path().join(format!("sys/bus/pci/devices/{}/net/ens1v{n}", pci(n))))
                .unwrap();
            functions.add(pci(n));
        }
        let kernel = Arc::new(Linux::new(dir.path().join("sys")).unwrap());
        let boot_id = sriov_dra::host::boot::boot_id().unwrap();
        let site = site(dir.path(), kernel, functions, &boot_id).unwrap();
        let (outbox, _) = Outbox::at(site.ledger.outbox_folder());
        let engine = Engine { site: site.clone() };
        let attacher = Attacher { site, outbox };
        Self { engine, attacher, _dir: dir }
    }

    fn prepare(&self, results: Vec<ResultSpec>) -> ClaimSpec {
        let spec = ClaimSpec {
            id: ClaimId { uid: "c1".into(), namespace: "ns".into(), name: "worker-vf".into() },
            pod_claim_name: "vf".into(),
            pod: Some(PodRef { uid: "p1".into(), name: "worker".into() }),
            results,
        };
        self.engine.prepare(&spec, soon()).unwrap();
        spec
    }
}

fn wants(n: u8) -> ResultSpec {
    ResultSpec {
        request: format!("vf{n}"),
        pool: "node-a".into(),
        device: pci(n).device_name(),
        pci: pci(n),
        share_id: None,
        admin_access: false,
        interface_asked: true,
        name: NameSpec::Template("net{n}".into()),
        mtu: Some(4200),
        addresses: vec![
            format!("10.7.{n}.5/24").parse().unwrap(),
            format!("fd07:{n}::5/64").parse().unwrap(),
        ],
        settings: Default::default(),
        bind: Default::default(),
        address_pool: None,
        routing: Default::default(),
        rdma: Default::default(),
    }
}

/// What `ip -d link` says of a link, without what changes by itself.
fn fingerprint(name: &str) -> String {
    let text = ip(&format!("-d -o link show {name}"));
    let stable = text
        .split_whitespace()
        .filter(|word| !word.starts_with("state") && !word.contains(':') || word.len() == 17);
    stable.collect::<Vec<_>>().join(" ")
}

#[test]
fn interfaces_arrive_named_addressed_and_up_and_leave_as_ip_saw_them_before() {
    let host = Host::new(2);
    ip("link property add dev ens1v1 altname enp129s0f0v1");
    ip("link set ens1v2 up");
    let before = [fingerprint("ens1v1"), fingerprint("ens1v2")];
    let pod = Pod::start();
    let spec = host.prepare(vec![wants(1), wants(2)]);
    host.attacher.run(&pod.sandbox("A"), soon()).unwrap();

    for n in 1..=2 {
        let link = pod.ip(&format!("-o link show net{n}"));
        assert!(link.contains("mtu 4200") && link.contains(",UP"), "{link}");
        let addresses = pod.ip(&format!("-o addr show net{n}"));
        assert!(addresses.contains(&format!("inet 10.7.{n}.5/24")), "{addresses}");
        let v6 = addresses
            .lines()
            .find(|line| line.contains(&format!("inet6 fd07:{n}::5/64")))
            .expect("the IPv6 address");
        assert!(!v6.contains("tentative"), "usable at once: {v6}");
    }
    assert_eq!(pod.ip("route show default"), "", "a VF never brings a default route");
    assert!(!ip("-o link").contains("ens1v"), "both are gone from the host");

    pod.ip("link set net1 promisc on");
    pod.ip("link set net1 address 02:11:22:33:44:55");
    host.attacher.stop(&pod.sandbox("A"), soon()).unwrap();
    assert_eq!([fingerprint("ens1v1"), fingerprint("ens1v2")], before);
    host.attacher.release("c1", soon()).unwrap();
    host.engine.unprepare(&spec.id, soon()).unwrap();
}

#[test]
fn names_taken_on_either_side_do_not_stop_a_vf() {
    let host = Host::new(1);
    let pod = Pod::start();
    pod.ip("link add net1 type veth peer name other");
    host.prepare(vec![wants(1)]);
    host.attacher.run(&pod.sandbox("A"), soon()).unwrap();
    assert!(pod.ip("-o link show net2").contains("mtu 4200"));
    // Meanwhile somebody takes the VF's name on the host: it comes back all the same, clean, under another name.
    ip("link add ens1v1 type veth peer name thief");
    host.attacher.stop(&pod.sandbox("A"), soon()).unwrap();
    assert!(!pod.ip("-o link").contains("net2"));
    let link = ip("-o link show net2");
    assert!(link.contains("mtu 1500") && !link.contains(",UP"), "{link}");
    // And once the name is free, it gets it back.
    ip("link del thief");
    host.attacher.run(&pod.sandbox("B"), soon()).unwrap();
    host.attacher.stop(&pod.sandbox("B"), soon()).unwrap();
    assert!(ip("-o link show ens1v1").contains("mtu 1500"));
}

#[test]
fn an_mtu_the_device_refuses_leaves_the_vf_on_the_host_and_names_vf_value_and_errno() {
    let host = Host::new(1);
    let pod = Pod::start();
    host.prepare(vec![ResultSpec { mtu: Some(70_000), ..wants(1) }]);
    let error = host.attacher.run(&pod.sandbox("A"), soon()).unwrap_err().sentence();
    assert!(
        error.contains("VF 0000:81:00.1: set MTU 70000") && error.contains("Invalid argument"),
        "{error}"
    );
    assert!(ip("-o link show ens1v1").contains("mtu 1500"));
}

#[test]
fn the_ipv6_side_is_quiet_a_router_can_not_put_routes_into_the_pod() {
    let host = Host::new(1);
    let pod = Pod::start();
    host.prepare(vec![ResultSpec { name: NameSpec::Explicit(IfName::new("fabric0").unwrap()), ..wants(1) }]);
    host.attacher.run(&pod.sandbox("A"), soon()).unwrap();
    for key in ["accept_ra", "autoconf"] {
        let path = format!("/proc/sys/net/ipv6/conf/fabric0/{key}");
        let value = run("nsenter", &format!("--net={} cat {path}", pod.path().display()));
        assert_eq!(value.trim(), "0", "{key}");
    }
}

#[test]
fn a_live_sandbox_keeps_its_vf_against_a_newer_one_and_a_dead_one_does_not() {
    let host = Host::new(1);
    let (first, second) = (Pod::start(), Pod::start());
    host.prepare(vec![wants(1)]);
    host.attacher.run(&first.sandbox("A"), soon()).unwrap();
    let error = host.attacher.run(&second.sandbox("B"), soon()).unwrap_err().sentence();
    assert!(error.contains(&format!("process {}", first.process.id())), "{error}");
    assert!(first.ip("-o link show net1").contains("mtu 4200"));
    host.attacher.stop(&first.sandbox("A"), soon()).unwrap();
    host.attacher.run(&second.sandbox("B"), soon()).unwrap();
    assert!(second.ip("-o link show net1").contains("mtu 4200"));
}

/// A port that nobody listens at refuses; what can't be reached is silent.
fn assert_reached(address: &str) {
    let address = format!("{address}:9").parse().unwrap();
    let refused = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(3)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{address}: {refused}");
}

/// What `ip` prints, without white space at ends of lines.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn rail(n: u8, host: u8) -> ResultSpec {
    let route = |to: &str, via: &str| WantedRoute { to: to.parse().unwrap(), via: via.parse().ok() };
    let routing = WantedRouting {
        routes: vec![route("172.16.0.0/16", "172.16.11.200"), route("0.0.0.0/0", "172.16.11.254")],
        source_routing: true,
        default_route: false,
        sysctls: [
            ("rp_filter", 2),
            ("arp_ignore", 1),
            ("arp_announce", 2),
            ("arp_filter", 1),
            ("accept_local", 1),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
        probe: Default::default(),
    };
    ResultSpec {
        addresses: vec![format!("172.16.11.{host}/24").parse().unwrap()],
        mtu: None,
        routing,
        ..wants(n)
    }
}

#[test]
fn rails_in_one_subnet_have_tables_and_rules_as_ip_shows_them_and_replies_leave_as_they_came() {
    let host = Host::new(2);
    // Both wires end in one switch, where a neighbour is.
    ip("link add switch type bridge");
    ip("link set wire1 master switch");
    ip("link set wire2 master switch");
    ip("addr add 172.16.11.100/24 dev switch");
    ip("link set switch up");
    let pod = Pod::start();
    pod.ip("link set lo up");
    pod.ip("link add eth0 type veth peer name eth0peer");
    pod.ip("addr add 10.244.0.5/24 dev eth0");
    pod.ip("link set eth0peer up");
    pod.ip("link set eth0 up");
    pod.ip("route add default via 10.244.0.1 dev eth0");
    let before = pod.ip("route show default");
    host.prepare(vec![rail(1, 10), rail(2, 11)]);
    host.attacher.run(&pod.sandbox("A"), soon()).unwrap();

    assert_eq!(pod.ip("route show default"), before, "the pod's default route stays on eth0");
    for (n, address) in [(1, "172.16.11.10"), (2, "172.16.11.11")] {
        let table = lines(&pod.ip(&format!("route show table {}", 100 + n)));
        assert_eq!(
            table,
            [
                format!("default via 172.16.11.254 dev net{n} proto static src {address}"),
                format!("172.16.0.0/16 via 172.16.11.200 dev net{n} proto static src {address}"),
                format!("172.16.11.0/24 dev net{n} proto static scope link src {address}"),
            ]
        );
        let rules = lines(&pod.ip("rule"));
        let rule = format!("{}: from {address} lookup {}", 32000 + n, 100 + n);
        assert!(rules.iter().any(|known| known.starts_with(&rule)), "{rules:?}");
        let way = pod.ip(&format!("route get 172.16.99.1 from {address}"));
        assert!(way.contains(&format!("dev net{n}")), "{way}");
    }
    for address in ["172.16.11.10", "172.16.11.11"] {
        assert_reached(address);
    }
    let neighbours = ip("neigh show dev switch");
    for (n, address) in [(1, "172.16.11.10"), (2, "172.16.11.11")] {
        let own = pod.ip(&format!("-o link show net{n}"));
        let mac = own.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned();
        let known = neighbours.lines().find(|line| line.starts_with(address)).unwrap_or_default();
        assert!(known.contains(&mac), "{address} is not answered by net{n} ({mac}): {neighbours}");
    }
    host.attacher.stop(&pod.sandbox("A"), soon()).unwrap();
    let rules = pod.ip("rule");
    assert!(!rules.contains("lookup 101") && !rules.contains("lookup 102"), "{rules}");
    assert_eq!(pod.ip("route show default"), before);
}

#[test]
fn neighbours_hear_of_an_address_when_it_comes() {
    let host = Host::new(1);
    ip("addr add 172.16.11.100/24 dev wire1");
    std::fs::write("/proc/sys/net/ipv4/conf/wire1/arp_accept", "1").unwrap();
    let pod = Pod::start();
    host.prepare(vec![ResultSpec { routing: Default::default(), ..rail(1, 10) }]);
    host.attacher.run(&pod.sandbox("A"), soon()).unwrap();
    let until = soon();
    // An entry that nobody asked for is made from the announcement alone.
    while !ip("neigh show dev wire1").contains("172.16.11.10") {
        assert!(Instant::now() < until, "{}", ip("neigh show dev wire1"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn probes_hear_who_has_an_address_and_which_gateway_answers_over_ipv4_and_ipv6() {
    let host = Host::new(1);
    ip("addr add 172.16.11.254/24 dev wire1");
    ip("addr add fd00:11::fe/64 dev wire1 nodad");
    // Somebody has the address that the second pod is to get.
    ip("addr add 172.16.11.11/24 dev wire1");
    ip("addr add fd00:11::11/64 dev wire1 nodad");
    let pod = Pod::start();
    let wanted = |host: u8, how: Probe| {
        let gateway = |to: &str, via: &str| WantedRoute { to: to.parse().unwrap(), via: via.parse().ok() };
        let routing = WantedRouting {
            routes: vec![gateway("0.0.0.0/0", "172.16.11.254"), gateway("::/0", "fd00:11::fe")],
            source_routing: true,
            probe: WantedProbe { duplicate_address: Some(how), gateway: Some(how), budget_ms: 600 },
            ..Default::default()
        };
        let addresses = ["172.16.11.", "fd00:11::"].map(|net| format!("{net}{host}"));
        let [v4, v6] = addresses;
        let addresses = vec![format!("{v4}/24").parse().unwrap(), format!("{v6}/64").parse().unwrap()];
        ResultSpec { addresses, routing, ..rail(1, host) }
    };
    let checks = || {
        let (_, letter) = host.attacher.outbox.waiting().pop().unwrap();
        let checks = letter.report.devices.into_iter().flat_map(|device| device.checks);
        checks.map(|check| (check.passed, check.message)).collect::<Vec<_>>()
    };
    let mac = ip("-o link show wire1");
    let mac = mac.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned();

    let spec = host.prepare(vec![wanted(10, Probe::Fail)]);
    host.attacher.run(&pod.sandbox("A"), soon()).unwrap();
    let answered = format!("172.16.11.254 is at {mac}, fd00:11::fe is at {mac}");
    let alone = "nobody answered for it within 300 ms".to_owned();
    assert_eq!(checks(), [(Some(true), alone), (Some(true), answered)]);
    host.attacher.stop(&pod.sandbox("A"), soon()).unwrap();
    host.engine.unprepare(&spec.id, soon()).unwrap();

    let pod = Pod::start();
    let spec = host.prepare(vec![wanted(11, Probe::Report)]);
    host.attacher.run(&pod.sandbox("B"), soon()).unwrap();
    let used = format!("172.16.11.11 is used by {mac}, fd00:11::11 is used by {mac}");
    assert_eq!(checks()[0], (Some(false), used.clone()));
    host.attacher.stop(&pod.sandbox("B"), soon()).unwrap();
    host.engine.unprepare(&spec.id, soon()).unwrap();

    let pod = Pod::start();
    host.prepare(vec![wanted(11, Probe::Fail)]);
    let error = host.attacher.run(&pod.sandbox("C"), soon()).unwrap_err();
    assert!(error.sentence().contains(&used), "{}", error.sentence());
    assert_eq!(lines(&pod.ip("-o link")).len(), 1, "only lo is in the pod");
    ip("link show ens1v1");
}

/// Lives through prepare, attach, return and unprepare with an agent that is killed before the k-th effect of one of them;
/// the kubelet and the runtime go on with the next one. `false` when there was no k-th effect.
fn survives_death(host: &Host, pod: &Pod, at: usize, k: usize) -> bool {
    let before = fingerprint("ens1v1");
    let spec = ClaimSpec {
        id: ClaimId { uid: "c1".into(), namespace: "ns".into(), name: "worker-vf".into() },
        pod_claim_name: "vf".into(),
        pod: Some(PodRef { uid: "p1".into(), name: "worker".into() }),
        results: vec![rail(1, 5)],
    };
    let sandbox = pod.sandbox(&format!("s{at}-{k}"));
    let prepare = || host.engine.prepare(&spec, soon()).map(drop).map_err(|error| error.sentence());
    let run = || host.attacher.run(&sandbox, soon()).map_err(|error| error.sentence());
    let stop = || host.attacher.stop(&sandbox, soon()).map_err(|error| error.sentence());
    let unprepare = || {
        host.attacher.release("c1", soon()).map_err(|error| error.sentence())?;
        host.engine.unprepare(&spec.id, soon()).map_err(|error| error.sentence())
    };
    let calls: [&dyn Fn() -> Result<(), String>; 4] = [&prepare, &run, &stop, &unprepare];
    let fate = Fate::default().at(k, Turn::Dies);
    for (call, deed) in calls.iter().enumerate() {
        let died = call == at && fate.live(deed).is_none();
        if died {
            // The next agent.
            let site = &host.engine.site;
            site.ledger.survey(&site.boot_id).unwrap();
            host.engine.sweep().unwrap();
            if call == 1 {
                host.attacher.synchronize(std::slice::from_ref(&sandbox), soon());
            }
        }
        if call != at || died {
            deed().unwrap_or_else(|error| panic!("call {call}, killed before effect {k} of {at}: {error}"));
        }
        if call == 1 {
            let link = pod.ip("-o link show net1");
            assert!(link.contains(",UP"), "killed before effect {k} of {at}: {link}");
            assert!(pod.ip("-o addr show net1").contains("172.16.11.5/24"));
            assert!(pod.ip("rule show").contains("from 172.16.11.5 lookup 101"));
        }
    }
    assert_eq!(fingerprint("ens1v1"), before, "killed before effect {k} of {at}");
    assert!(!pod.ip("rule show").contains("lookup 101"), "killed before effect {k} of {at}");
    !fate.is_open()
}

#[test]
fn an_agent_killed_before_any_change_of_kernel_or_disk_leaves_links_as_ip_saw_them_before() {
    let host = Host::new(1);
    let pod = Pod::start();
    let deaths: Vec<usize> =
        (0..4).map(|at| (0..).take_while(|k| survives_death(&host, &pod, at, *k)).count()).collect();
    println!("deaths in prepare, attach, return, unprepare: {deaths:?}");
    assert!(deaths.iter().all(|deaths| *deaths > 4), "{deaths:?}");
}
