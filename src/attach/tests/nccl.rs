//! What NCCL and UCX are told: exactly the container's devices, and where they are.

use super::*;
use crate::claim::WantedRdma;
use crate::device::RdmaNetnsMode;
use crate::nccl::TOPOLOGY_FILE;
use crate::prepare::cdi;

fn asking(n: u8, nccl: Option<bool>) -> ResultSpec {
    ResultSpec { rdma: WantedRdma { nccl, ..WantedRdma::default() }, ..wants(n) }
}

/// Three VFs with RDMA devices; claims c1 with two of them and c2 with one, in pod p1.
struct Rails {
    lab: Lab,
    specs: Vec<ClaimSpec>,
    sandbox: Sandbox,
}

fn rails(mode: RdmaNetnsMode, asked: [Option<bool>; 3]) -> Rails {
    let lab = Lab::new(3);
    lab.kernel.set_rdma_mode(mode);
    for n in 1..=3 {
        lab.kernel.add_rdma(pci(n), &format!("mlx5_{}", 17 + n));
    }
    lab.kernel.add_netns("/run/netns/a", 7);
    let specs = vec![
        claim("c1", "p1", vec![asking(1, asked[0]), asking(2, asked[1])]),
        claim("c2", "p1", vec![asking(3, asked[2])]),
    ];
    for spec in &specs {
        lab.engine.prepare(spec, soon()).unwrap();
    }
    let sandbox = sandbox("A", "p1", "/run/netns/a");
    lab.attacher.run(&sandbox, soon()).unwrap();
    Rails { lab, specs, sandbox }
}

impl Rails {
    /// The environment of a container with these claims and these variables of its own, and its files.
    fn create(&self, name: &str, claims: &[&str], own: &[&str]) -> (Vec<String>, Vec<(PathBuf, String)>) {
        let mut all = Container { name: name.into(), ..container("A", "c1") };
        all.env = own.iter().map(|variable| (*variable).to_owned()).collect();
        for claim in claims {
            all.env.extend(container("A", claim).env);
            let entry = self.lab.engine.site.ledger.entry(claim).unwrap().unwrap();
            let listed = cdi::variables_of(&entry).into_iter();
            all.env.extend(listed.map(|(key, value)| format!("{key}={value}")));
        }
        let given = self.lab.attacher.create_container(&self.sandbox, &all, soon()).unwrap();
        let told = given.env.iter().filter(|(key, _)| key.starts_with("NCCL_") || key.starts_with("UCX_"));
        (told.map(|(key, value)| format!("{key}={value}")).collect(), given.files)
    }
}

#[test]
fn where_one_vf_asks_all_devices_of_the_container_are_told_of_with_their_place_in_a_file_of_its_own() {
    for mode in [RdmaNetnsMode::Exclusive, RdmaNetnsMode::Shared] {
        let rails = rails(mode, [Some(true), None, None]);
        let (env, files) = rails.create("main", &["c1", "c2"], &[]);
        let three = "mlx5_18:1,mlx5_19:1,mlx5_20:1";
        assert_eq!(
            env,
            [
                format!("NCCL_IB_HCA=={three}"),
                format!("UCX_NET_DEVICES={three}"),
                format!("NCCL_TOPO_FILE={TOPOLOGY_FILE}"),
            ]
        );
        let [(file, inside)] = files.as_slice() else { panic!("{files:?}") };
        assert_eq!(inside, TOPOLOGY_FILE);
        assert!(file.starts_with(rails.lab.dir.path().join("run/containers/p1")), "{}", file.display());
        let text = std::fs::read_to_string(file).unwrap();
        for n in 1..=3 {
            let place = text.find(&format!("busid=\"{}\"", pci(n))).unwrap();
            let net = text.find(&format!("<net name=\"mlx5_{}\"", 17 + n)).unwrap();
            let next = text[place..].find("</pci>").unwrap() + place;
            assert!(place < net && net < next, "{text}");
        }

        let (env, other) = rails.create("helper", &["c2"], &[]);
        assert_eq!((env, other.len()), (vec![], 0), "its own VF asks for nothing");
        let (_, again) = rails.create("main", &["c1", "c2"], &[]);
        assert_eq!(again, files, "a container that starts again gets the file of its former life");

        rails.lab.attacher.stop(&rails.sandbox, soon()).unwrap();
        rails.lab.unprepare(&rails.specs[0]).unwrap();
        assert!(file.exists(), "the pod has a claim left");
        rails.lab.unprepare(&rails.specs[1]).unwrap();
        assert!(!file.exists() && !file.parent().unwrap().exists());
    }
}

#[test]
fn what_the_user_set_stays_and_a_file_of_his_own_is_enough() {
    let rails = rails(RdmaNetnsMode::Shared, [Some(true), Some(false), None]);
    let own = ["NCCL_IB_HCA=mlx5_18", "NCCL_TOPO_FILE=/mine.xml", "NCCL_IB_GID_INDEX=3"];
    let (env, files) = rails.create("main", &["c1"], &own);
    assert_eq!((env, files.len()), (vec!["UCX_NET_DEVICES=mlx5_18:1,mlx5_19:1".to_owned()], 0));
    let none = rails.create("empty", &["c1"], &["NCCL_IB_HCA=", "UCX_NET_DEVICES="]);
    assert_eq!(none.0, [format!("NCCL_TOPO_FILE={TOPOLOGY_FILE}")], "set to nothing is set, too");
}

#[test]
fn without_a_topology_file_there_are_the_lists_alone() {
    let rails = rails(RdmaNetnsMode::Exclusive, [Some(false), Some(false), Some(true)]);
    let (env, files) = rails.create("main", &["c1"], &[]);
    let two = "mlx5_18:1,mlx5_19:1";
    assert_eq!(
        (env, files.len()),
        (vec![format!("NCCL_IB_HCA=={two}"), format!("UCX_NET_DEVICES={two}")], 0)
    );
    assert!(!rails.lab.dir.path().join("run/containers").exists());
}
