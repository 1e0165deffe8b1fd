//! A node whose agent is all there but for kernel, kubelet and runtime, beside the embedded API server, which a test lets
//! go wrong at one request.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::addresses;
use super::claims::{Claims, PREPARES};
use super::pods::Pods;
use super::strays::Strays;
use crate::address::{AddressBlock, AddressPool, Parent};
use crate::attach::nri::{Connection, Runtime, Sandbox};
use crate::attach::{Attacher, Outbox, status};
use crate::controller::blocks::{self, Blocks, NodePf, Pfs};
use crate::controller::{self, Controller, Offer};
use crate::demo::apiserver::{ApiServer, Fault, Logged};
use crate::device::PciAddress;
use crate::host::NetnsId;
use crate::host::fake::FakeKernel;
use crate::kubelet::ClaimRef;
use crate::policy::OfferedDevice;
use crate::prepare::engine::Engine;
use crate::prepare::fake::{FakeFunctions, pf, site};
use crate::prepare::locks::Locks;
use crate::{DEFAULT_DRIVER_NAME, controller::Published};

const PF: PciAddress = PciAddress { domain: 0, bus: 0x81, device: 0, function: 0 };
/// What anything may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks, and two calls of the kubelet.
const PAUSE: Duration = Duration::from_millis(25);

pub(super) fn vf(n: u8) -> PciAddress {
    PciAddress { function: n, ..PF }
}

pub(super) fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// What a request is about, so that it is known again in another run: names of slices are made up by the server.
pub(super) fn kind_of(request: &Logged) -> String {
    let path = match request.path.split_once("/resourceslices/") {
        Some((before, _)) => format!("{before}/resourceslices/*"),
        None => request.path.clone(),
    };
    let watches = if request.query.contains("watch=") { " watch" } else { "" };
    format!("{} {path}{watches}", request.method)
}

/// What goes wrong at one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    Refused(u16),
    /// The connection ends, and nothing was done.
    Cut,
    /// It was done, and the connection ends.
    AnswerLost,
    /// No answer for longer than anybody waits.
    Silence,
    /// It was done, and the agent is killed.
    Killed,
    /// The agent is killed, and nothing was done.
    KilledBefore,
}

/// Tells who plays the kubelet that the agent has to die.
#[derive(Default)]
struct Killer {
    due: AtomicBool,
    told: Notify,
}

/// The parts of an agent, as `run_node` joins them.
struct Agent {
    claims: Claims,
    pods: Pods,
    strays: Strays,
    parts: JoinSet<()>,
    published: watch::Receiver<Published>,
}

pub(super) struct Lab {
    pub(super) server: ApiServer,
    pub(super) kernel: FakeKernel,
    dir: tempfile::TempDir,
    functions: FakeFunctions,
    by_hook: bool,
    offers: watch::Sender<Offer>,
    killer: Arc<Killer>,
    met: Arc<AtomicBool>,
    sandboxes: Vec<Sandbox>,
    agent: Agent,
}

impl Lab {
    /// Three VFs, a pool of addresses, and what goes wrong at the n-th request of a kind.
    pub(super) async fn new(by_hook: bool, wrong: Option<(Wrong, &str, usize)>) -> Self {
        let server = ApiServer::start("127.0.0.1:0").await.unwrap();
        server.store().create(&object::<NodeObject>(json!({ "metadata": { "name": "node-a" } }))).unwrap();
        let pool = json!({ "metadata": { "name": "rail" }, "spec": {
            "mode": "sharedSubnet", "ipv4": { "cidr": "172.16.7.0/24", "blockSize": 8, "gateway": "172.16.7.254" },
        } });
        server.store().create(&object::<AddressPool>(pool)).unwrap();
        let (kernel, functions) = (FakeKernel::default(), FakeFunctions::default());
        for n in 1..=3 {
            kernel.add_vf(vf(n), &format!("ens1v{n}"), 1500, &format!("02:00:00:00:00:0{n}"));
            functions.add(vf(n));
            functions.change(vf(n), |facts| {
                facts.vf.pf = Some(PF);
                facts.vf.index = Some(u32::from(n) - 1);
                facts.pf = Some(pf(PF));
            });
        }
        functions.join(&kernel);
        let (killer, met) = (Arc::new(Killer::default()), Arc::new(AtomicBool::new(false)));
        if let Some((wrong, kind, ordinal)) = wrong {
            Self::go_wrong(&server, wrong, kind.to_owned(), ordinal, (killer.clone(), met.clone()));
        }
        let (offers, _) = watch::channel(offer(2));
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::start(&server, dir.path(), (&kernel, &functions), by_hook, offers.subscribe());
        Self { server, kernel, dir, functions, by_hook, offers, killer, met, sandboxes: Vec::new(), agent }
    }

    fn go_wrong(
        server: &ApiServer,
        wrong: Wrong,
        kind: String,
        ordinal: usize,
        (killer, met): (Arc<Killer>, Arc<AtomicBool>),
    ) {
        let fault = match wrong {
            Wrong::Refused(code) => Fault::Status(code),
            Wrong::Cut | Wrong::KilledBefore => Fault::Drop,
            Wrong::AnswerLost | Wrong::Killed => Fault::DropAnswer,
            Wrong::Silence => Fault::Delay(PATIENCE),
        };
        let seen = AtomicUsize::new(0);
        let matches = move |request: &Logged| {
            let it_is = kind_of(request) == kind && seen.fetch_add(1, Ordering::SeqCst) == ordinal;
            if it_is {
                met.store(true, Ordering::SeqCst);
            }
            if it_is && matches!(wrong, Wrong::Killed | Wrong::KilledBefore) {
                killer.due.store(true, Ordering::SeqCst);
                killer.told.notify_one();
            }
            it_is
        };
        server.faults().next(1, matches, fault);
    }

    /// Whether the request came at which something was to go wrong.
    pub(super) fn met(&self) -> bool {
        self.met.load(Ordering::SeqCst)
    }

    /// As kubelet and runtime do it: again and again, until it is done, by whichever agent is there.
    async fn insist<T>(&mut self, what: &str, call: impl AsyncFn(&mut Agent) -> Result<T, String>) -> T {
        let until = Instant::now() + PATIENCE;
        let mut told = BTreeSet::new();
        loop {
            let done = tokio::select! {
                biased;
                () = self.killer.told.notified() => Err("killed".to_owned()),
                done = call(&mut self.agent) => done,
            };
            if self.killer.due.swap(false, Ordering::SeqCst) {
                self.restart().await;
            } else {
                match done {
                    Ok(done) => return done,
                    Err(error) => drop(told.insert(error)),
                }
            }
            assert!(Instant::now() < until, "{what}: {told:#?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The agent is killed, and another one starts.
    pub(super) async fn restart(&mut self) {
        self.agent.parts.abort_all();
        while self.agent.parts.join_next().await.is_some() {}
        let node = (&self.kernel, &self.functions);
        self.agent = Agent::start(&self.server, self.dir.path(), node, self.by_hook, self.offers.subscribe());
        let (attacher, sandboxes) = (self.agent.claims.attacher.clone(), self.sandboxes.clone());
        let synchronized =
            tokio::task::spawn_blocking(move || attacher.synchronize(&sandboxes, soon())).await;
        synchronized.unwrap();
    }

    /// A pod with a container that lists the claim `vf`.
    pub(super) fn pod(&self, name: &str) -> String {
        let container =
            json!({ "name": "main", "image": "busybox", "resources": { "claims": [{ "name": "vf" }] } });
        let pod = json!({
            "metadata": { "name": name, "namespace": "ns" },
            "spec": { "containers": [container], "resourceClaims": [{ "name": "vf", "resourceClaimName": "vf" }] },
        });
        self.server.store().create(&object::<Pod>(pod)).unwrap().metadata.uid.unwrap()
    }

    /// A claim that people made, allocated to VF `n`, with an address of the pool.
    pub(super) fn claim(&self, name: &str, n: u8, pod: (&str, &str)) -> ClaimRef {
        let parameters = json!({
            "apiVersion": "sriov-dra.io/v1alpha1", "kind": "VfConfig", "interface": { "addressPool": "rail", "mtu": 4200 },
        });
        let opaque = json!({ "driver": DEFAULT_DRIVER_NAME, "parameters": parameters });
        let result = json!({ "request": "vf", "driver": DEFAULT_DRIVER_NAME, "pool": "node-a", "device": vf(n).device_name() });
        let claim = json!({
            "metadata": { "name": name, "namespace": "ns" },
            "spec": { "devices": { "requests": [{ "name": "vf", "exactly": { "deviceClassName": "sriov-vf" } }] } },
            "status": {
                "allocation": { "devices": { "results": [result], "config": [{ "source": "FromClass", "opaque": opaque }] } },
                "reservedFor": [{ "resource": "pods", "name": pod.0, "uid": pod.1 }],
            },
        });
        let claim = self.server.store().create(&object::<ResourceClaim>(claim)).unwrap();
        ClaimRef { uid: claim.metadata.uid.unwrap(), namespace: "ns".into(), name: name.into() }
    }

    /// The claim goes on to another pod.
    pub(super) fn reserve(&self, claim: &ClaimRef, pod: (&str, &str)) {
        let mut object = self.server.store().get::<ResourceClaim>("ns", &claim.name).unwrap();
        let reserved = json!([{ "resource": "pods", "name": pod.0, "uid": pod.1 }]);
        object.status.as_mut().unwrap().reserved_for = Some(self::object(reserved));
        self.server.store().replace(&object).unwrap();
    }

    /// The claim is gone at the API server.
    pub(super) fn forget(&self, claim: &ClaimRef) {
        self.server.store().delete::<ResourceClaim>("ns", &claim.name);
    }

    pub(super) async fn prepare(&mut self, claim: &ClaimRef) {
        use crate::kubelet::ClaimService;
        self.insist("prepare", async |agent| agent.claims.prepare(claim.clone()).await.map(drop)).await;
    }

    pub(super) async fn unprepare(&mut self, claim: &ClaimRef) {
        use crate::kubelet::ClaimService;
        self.insist("unprepare", async |agent| agent.claims.unprepare(claim.clone()).await).await;
    }

    /// The pod's sandbox starts, and a container with its claim.
    pub(super) async fn start(&mut self, pod: (&str, &str), claim: &ClaimRef) -> NetnsId {
        use crate::attach::nri::PodEvents;
        let pid = 100 + u32::try_from(self.sandboxes.len()).unwrap();
        let path = format!("/run/netns/{}", pod.0);
        let netns = self.kernel.add_netns(&path, i32::try_from(pid).unwrap()).id();
        let sandbox = Sandbox {
            id: format!("sandbox of {}", pod.0),
            pod_uid: pod.1.to_owned(),
            pod_name: pod.0.to_owned(),
            pod_namespace: "ns".into(),
            netns: Some(path.into()),
            lists_namespaces: true,
            pid,
        };
        self.sandboxes.push(sandbox.clone());
        if !self.by_hook {
            self.insist("sandbox", async |agent| agent.pods.run(sandbox.clone()).await).await;
            let marker =
                format!("SRIOV_DRA_CLAIM_{}=ns/{}", claim.uid.to_uppercase().replace('-', "_"), claim.name);
            let container = crate::attach::nri::Container {
                id: "c".into(),
                sandbox_id: sandbox.id.clone(),
                name: "main".into(),
                env: vec![marker],
                live: false,
                devices: Vec::new(),
                memlock: None,
            };
            self.insist("container", async |agent| {
                agent.pods.create_container(sandbox.clone(), container.clone()).await.map(drop)
            })
            .await;
        }
        // The hook asks nobody.
        let guarded = self.agent.claims.attacher.guard(&sandbox, &claim.uid, soon());
        guarded.unwrap_or_else(|error| panic!("{}", error.sentence()));
        netns
    }

    /// The pod is over. Its claims are its kubelet's affair.
    pub(super) async fn stop(&mut self, name: &str, netns: NetnsId) {
        use crate::attach::nri::PodEvents;
        self.kernel.kill_users(netns);
        let at = self.sandboxes.iter().position(|sandbox| sandbox.pod_name == name).unwrap();
        let sandbox = self.sandboxes.remove(at);
        if !self.by_hook {
            self.insist("stop", async |agent| agent.pods.stop(sandbox.clone()).await).await;
        }
        self.kernel.destroy(netns);
        self.server.store().delete::<Pod>("ns", name);
    }

    /// Looks for strays until the claim is no more.
    pub(super) async fn look_until_gone(&mut self, claim: &ClaimRef) {
        self.insist("strays", async |agent| {
            agent.strays.look(Duration::ZERO).await;
            let there = agent.claims.engine.site.ledger.has_entry(&claim.uid);
            if there { Err("the claim is still there".to_owned()) } else { Ok(()) }
        })
        .await;
    }

    /// The claim's status says that its VF is in the pod, with an address of the node's block.
    pub(super) async fn until_told(&mut self, claim: &ClaimRef) {
        let store = self.server.store().clone();
        self.insist("status", async |_| {
            let told = store.get::<ResourceClaim>("ns", &claim.name).and_then(|claim| claim.status?.devices);
            let told = serde_json::to_value(&told).unwrap();
            let (device, network) = (&told[0], &told[0]["networkData"]);
            let ready = device["conditions"].as_array().into_iter().flatten();
            let ready = ready.filter(|c| c["type"] == "Ready" && c["status"] == "True").count();
            let address = network["ips"][0].as_str().is_some_and(|ip| ip.starts_with("172.16.7."));
            let well = ready == 1 && network["interfaceName"] == "net1" && address;
            if well { Ok(()) } else { Err(told.to_string()) }
        })
        .await;
    }

    /// The VFs that are offered from now on.
    pub(super) fn offer(&self, count: u8) {
        self.offers.send_replace(offer(count));
    }

    /// Just these VFs are published, each once, in one pool of one generation, and the agent knows it.
    pub(super) async fn until_published(&mut self, count: u8) {
        let store = self.server.store().clone();
        self.insist("slices", async |agent| {
            let slices = store.list::<ResourceSlice>();
            let mut devices: Vec<String> = slices
                .iter()
                .flat_map(|slice| slice.spec.devices.iter().flatten())
                .map(|d| d.name.clone())
                .collect();
            devices.sort();
            let wanted: Vec<String> = (1..=count).map(|n| vf(n).device_name()).collect();
            let pools: BTreeSet<(i64, i64)> = slices
                .iter()
                .map(|slice| (slice.spec.pool.generation, slice.spec.pool.resource_slice_count))
                .collect();
            let whole =
                pools.len() == 1 && pools.iter().all(|(_, of)| usize::try_from(*of) == Ok(slices.len()));
            let known = agent.published.borrow().clone();
            let well = devices == wanted && whole && known.in_sync && known.devices == wanted.len();
            if well { Ok(()) } else { Err(format!("{devices:?} {pools:?} {known:?}")) }
        })
        .await;
    }

    /// All is over: the VFs are as they were, nothing is left, and the PF has one block of the pool.
    pub(super) async fn assert_nothing_is_left(&mut self) {
        let store = self.server.store().clone();
        let folder = self.dir.path().to_owned();
        self.insist("nothing is left", async |_| {
            let left: Vec<String> = [
                "durable/claims",
                "durable/vf",
                "durable/pods",
                "durable/unclean",
                "durable/quarantine",
                "cdi",
                "run/attach",
                "run/status",
            ]
            .iter()
            .flat_map(|name| std::fs::read_dir(folder.join(name)).into_iter().flatten().flatten())
            .map(|file| file.path().display().to_string())
            .collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        for n in 1..=3 {
            let (place, link, addresses) = self.kernel.vf(vf(n)).unwrap();
            assert_eq!(place, crate::host::Kernel::host(&self.kernel).id());
            assert_eq!((link.name, link.mtu, addresses), (format!("ens1v{n}"), 1500, Vec::new()));
        }
        let blocks = store.list::<AddressBlock>();
        let of: Vec<PciAddress> = blocks.iter().map(|block| block.spec.pf_pci_address).collect();
        assert_eq!(of, [PF], "blocks of addresses");
    }
}

impl Agent {
    fn start(
        server: &ApiServer,
        folder: &Path,
        (kernel, functions): (&FakeKernel, &FakeFunctions),
        by_hook: bool,
        offered: watch::Receiver<Offer>,
    ) -> Self {
        let site = site(folder, Arc::new(kernel.clone()), functions.clone(), "boot-1").unwrap();
        site.ledger.survey(&site.boot_id).unwrap();
        if by_hook {
            site.runtime.attached_by_hook();
        }
        let (client, stop) = (server.client_inside(), CancellationToken::new());
        let (ledger, locks) = (site.ledger.clone(), Locks::at(site.ledger.lock_folder()));
        let (outbox, woken) = Outbox::at(ledger.outbox_folder());
        let engine = Arc::new(Engine { site: site.clone() });
        let attacher = Arc::new(Attacher { site, outbox: outbox.clone() });
        let mut parts = JoinSet::new();
        let driver = DEFAULT_DRIVER_NAME.to_owned();
        parts.spawn(status::run(client.clone(), driver, outbox, locks, woken, stop.clone()));

        let pace = controller::Settings {
            debounce: Duration::from_millis(10),
            backoff_min: Duration::from_millis(30),
            backoff_max: Duration::from_millis(300),
            call_timeout: Duration::from_secs(3),
            ..controller::Settings::default()
        };
        let times = blocks::Settings {
            pace: pace.clone(),
            lost_after: PATIENCE,
            again: Duration::from_secs(1),
            spread: Duration::from_millis(50),
        };
        let known = ledger.book().unwrap();
        functions.know(known.clone());
        let blocks = Blocks::new(client.clone(), "node-a", known.clone()).with_settings(times);
        let (kept, mut book) = watch::channel(Arc::new(known));
        let (news, _) = mpsc::channel(1);
        parts.spawn(addresses::keep(ledger, blocks.book(), kept, news, stop.clone()));
        let knows = functions.clone();
        parts.spawn(async move {
            while book.changed().await.is_ok() {
                knows.know((**book.borrow_and_update()).clone());
            }
        });
        let parent = Parent { pci: PF, name: Some("ens1f0".into()), rail: None, addresses: Vec::new() };
        let (pfs, seen) = watch::channel(Some(Pfs::new(vec![NodePf { parent, vfs: 7, busy: false }])));
        let until = stop.clone();
        parts.spawn(async move {
            blocks.run(seen, until).await;
            drop(pfs);
        });
        let controller = Controller::new(client.clone(), DEFAULT_DRIVER_NAME, "node-a").with_settings(pace);
        let published = controller.published();
        parts.spawn(controller.run(offered, stop.clone()));

        let runtime = Runtime {
            name: "containerd".into(),
            version: "2.1".into(),
            request_timeout: Duration::from_secs(2),
        };
        let (_, connected) = watch::channel(Connection::Connected { since: SystemTime::now(), runtime });
        let claims = Claims {
            runtime: Some(connected).filter(|_| !by_hook),
            prepares: Arc::new(Semaphore::new(PREPARES)),
            client: client.clone(),
            engine,
            attacher: attacher.clone(),
            node: "node-a".into(),
        };
        let strays = Strays::new(claims.clone(), folder.join("kubelet"));
        Self { claims, pods: Pods { client, attacher }, strays, parts, published }
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn offer(count: u8) -> Offer {
    let device = |n| OfferedDevice { name: vf(n).device_name(), pci: vf(n), attributes: BTreeMap::new() };
    Offer::new((1..=count).map(device).collect())
}
