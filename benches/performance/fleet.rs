//! 1,000 pods start on 50 nodes of 8 PFs, each with a VF that has its address from a pool. One API server, the embedded
//! one; for each node the agent's own parts: the controller of blocks, what answers the kubelet, the attacher, the writer of
//! statuses. VFs and kernel are the doubles of the tests.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow, ensure};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use sriov_dra::address::{AddressPool, Book, Parent};
use sriov_dra::app::{Claims, PREPARES};
use sriov_dra::attach::nri::{Connection, Sandbox};
use sriov_dra::attach::{Attacher, Outbox, status};
use sriov_dra::controller::blocks::{Blocks, NodePf, Pfs};
use sriov_dra::demo::apiserver::ApiServer;
use sriov_dra::device::PciAddress;
use sriov_dra::host::fake::FakeKernel;
use sriov_dra::kubelet::{ClaimRef, ClaimService};
use sriov_dra::prepare::engine::Engine;
use sriov_dra::prepare::fake::{FakeFunctions, pf, site};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::measure::{Table, ms};

const NODES: usize = 50;
const PFS: u8 = 8;
const PODS_OF_NODE: usize = 20;
const POOL: &str = "rails";
const DRIVER: &str = "sriov-dra.io";
/// For everything that has to come about by itself.
const SOON: Duration = Duration::from_secs(60);

pub fn measure(_binary: &Path, table: &mut Table) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("sdra").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(start_all(folder.path(), table))
}

async fn start_all(folder: &Path, table: &mut Table) -> anyhow::Result<()> {
    let server = ApiServer::start("127.0.0.1:0").await?;
    let pools: Api<AddressPool> = Api::all(server.client()?);
    let pool: AddressPool = serde_json::from_value(json!({
        "apiVersion": "sriov-dra.io/v1alpha1", "kind": "AddressPool", "metadata": {"name": POOL},
        "spec": {"mode": "perNodePrefix", "ipv4": {"cidr": "172.16.0.0/16", "prefixLength": 27, "gatewayIndex": 1}},
    }))?;
    pools.create(&PostParams::default(), &pool).await?;
    let started = Instant::now();
    let mut nodes = Vec::new();
    for number in 0..NODES {
        nodes.push(Arc::new(OnNode::start(&server, number, folder)?));
    }
    for node in &nodes {
        node.until_all_known().await?;
    }
    let settled = started.elapsed();
    let blocks = |server: &ApiServer| server.faults().writes("addressblocks").len();
    let creates = blocks(&server);
    let of_blocks = NODES * usize::from(PFS);
    table.figure(
        format!("{NODES} nodes claim {of_blocks} blocks at once"),
        format!("{}, {} conflicts", ms(settled), creates.saturating_sub(of_blocks)),
    );
    server.faults().forget_requests();

    let mut pods = JoinSet::new();
    let started = Instant::now();
    for pod in 0..PODS_OF_NODE {
        for node in &nodes {
            let claim = node.add_claim(&server, pod)?;
            let node = node.clone();
            pods.spawn(async move { node.run_pod(pod, claim).await });
        }
    }
    let (mut waited, mut addresses) = (0, std::collections::BTreeSet::new());
    while let Some(done) = pods.join_next().await {
        let (known, address) = done??;
        waited += usize::from(!known);
        ensure!(addresses.insert(address.clone()), "two pods have {address}");
    }
    let took = started.elapsed();
    let count = NODES * PODS_OF_NODE;
    ensure!(addresses.len() == count, "{} addresses for {count} pods", addresses.len());
    let statuses =
        || server.store().list::<ResourceClaim>().iter().filter(|claim| has_address(claim)).count();
    let until = Instant::now() + SOON;
    while statuses() < count {
        ensure!(Instant::now() < until, "{} of {count} statuses are written", statuses());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (requests, conflicts) = (server.faults().requests(), blocks(&server));
    let watches = |path: &str| path.contains("watch=");
    let of_claims: Vec<_> = requests.iter().filter(|request| request.is_about("resourceclaims")).collect();
    let writes = of_claims.iter().filter(|request| request.is_write()).count();
    let reads = of_claims.len() - writes;
    let all = requests.iter().filter(|request| !watches(&request.path)).count();
    let per_pod = |calls: usize| format!("{:.2}", calls as f64 / count as f64);
    let what = format!("{count} pods start on {NODES} nodes");
    table.figure(format!("{what}, all of it"), ms(took));
    table.aim(format!("{what}: reads of the API server per pod"), "1", per_pod(reads), reads <= count);
    table.aim("… writes per pod", "1", per_pod(writes), writes <= count);
    table.figure("… all calls per pod, whatever they are about", per_pod(all));
    table.aim(
        "… writes of blocks and conflicts on pools meanwhile",
        "0",
        conflicts.to_string(),
        conflicts == 0,
    );
    table.aim("… pods that had to wait for an address", "0", waited.to_string(), waited == 0);
    for node in &nodes {
        node.stop.cancel();
    }
    Ok(())
}

fn has_address(claim: &ResourceClaim) -> bool {
    let devices = claim.status.as_ref().and_then(|status| status.devices.as_ref());
    devices.into_iter().flatten().any(|device| {
        device.network_data.as_ref().is_some_and(|data| data.ips.as_ref().is_some_and(|ips| !ips.is_empty()))
    })
}

/// A node's agent, as far as it has to do with claims.
struct OnNode {
    name: String,
    claims: Claims,
    kernel: FakeKernel,
    functions: FakeFunctions,
    book: watch::Receiver<Arc<Book>>,
    stop: CancellationToken,
}

fn pf_address(number: u8) -> PciAddress {
    PciAddress { domain: 0, bus: 0x81 + number, device: 0, function: 0 }
}

/// VFs in the order in which they are published: VF 0 of every PF, then VF 1 …
fn vf_address(place: usize) -> (u8, u32, PciAddress) {
    let (pf, index) = ((place % usize::from(PFS)) as u8, (place / usize::from(PFS)) as u32);
    (pf, index, PciAddress { function: (index + 1) as u8, ..pf_address(pf) })
}

impl OnNode {
    fn start(server: &ApiServer, number: usize, folder: &Path) -> anyhow::Result<Self> {
        let name = format!("node-{number}");
        let mut object = Node::default();
        object.metadata.name = Some(name.clone());
        server.store().create(&object);
        let (kernel, functions) = (FakeKernel::default(), FakeFunctions::default());
        for place in 0..PODS_OF_NODE {
            let (pf_number, index, vf) = vf_address(place);
            kernel.add_vf(
                vf,
                &format!("ens{pf_number}v{index}"),
                1500,
                &format!("02:00:00:00:{pf_number:02x}:{index:02x}"),
            );
            functions.add(vf);
            functions.change(vf, |facts| {
                facts.pf = Some(pf(pf_address(pf_number)));
                facts.vf.pf = Some(pf_address(pf_number));
                facts.vf.index = Some(index);
            });
        }
        let parent =
            |number| Parent { pci: pf_address(number), name: None, rail: None, addresses: Vec::new() };
        let pfs = (0..PFS).map(|number| NodePf { parent: parent(number), vfs: 8, busy: false }).collect();
        let stop = CancellationToken::new();
        let blocks = Blocks::new(server.client()?, &name, Book::default());
        let book = blocks.book();
        let (_, seen) = watch::channel(Some(Pfs::new(pfs)));
        tokio::spawn(blocks.run(seen, stop.clone()));
        let site = site(&folder.join(&name), Arc::new(kernel.clone()), functions.clone(), "boot-1")?;
        let (outbox, woken) = Outbox::at(site.ledger.outbox_folder());
        let (client, locks) = (server.client()?, site.locks.clone());
        tokio::spawn(status::run(client, DRIVER.into(), outbox.clone(), locks, woken, stop.clone()));
        let claims = Claims {
            runtime: Some(
                watch::channel(Connection::Disconnected { since: SystemTime::now(), reason: None }).1,
            ),
            prepares: Arc::new(Semaphore::new(PREPARES)),
            client: server.client()?,
            engine: Arc::new(Engine { site: site.clone() }),
            attacher: Arc::new(Attacher { site, outbox }),
            node: name.clone(),
        };
        Ok(Self { name, claims, kernel, functions, book, stop })
    }

    async fn until_all_known(&self) -> anyhow::Result<()> {
        let until = Instant::now() + SOON;
        loop {
            let book = self.book.borrow().clone();
            let known = book.pools.get(POOL).map(|page| page.blocks.len()).unwrap_or_default();
            if known == usize::from(PFS) {
                self.functions.know((*book).clone());
                return Ok(());
            }
            ensure!(Instant::now() < until, "{} has {known} blocks after {SOON:?}", self.name);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// An allocated claim, as the scheduler leaves it.
    fn add_claim(&self, server: &ApiServer, pod: usize) -> anyhow::Result<ResourceClaim> {
        let (.., vf) = vf_address(pod);
        let name = format!("{}-{pod}", self.name);
        let parameters: Value = json!({
            "apiVersion": "sriov-dra.io/v1alpha1", "kind": "VfConfig", "interface": {"addressPool": POOL},
        });
        let claim: ResourceClaim = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
            "spec": {"devices": {"requests": [{"name": "vf", "exactly": {"deviceClassName": "rail"}}]}},
            "status": {
                "allocation": {"devices": {
                    "results": [{"request": "vf", "driver": DRIVER, "pool": self.name, "device": vf.device_name()}],
                    "config": [{"source": "FromClass", "requests": ["vf"], "opaque": {"driver": DRIVER, "parameters": parameters}}],
                }},
                "reservedFor": [{"resource": "pods", "name": name, "uid": format!("pod-{name}")}],
            },
        }))?;
        server.store().create(&claim).context("a claim of that name is there")
    }

    /// What kubelet and runtime have the agent do. Whether the address was known when the pod came, and which it is.
    async fn run_pod(&self, pod: usize, claim: ResourceClaim) -> anyhow::Result<(bool, String)> {
        let (pf_number, index, _) = vf_address(pod);
        let assigned = sriov_dra::prepare::functions::Functions::address(
            &self.functions,
            POOL,
            &pf(pf_address(pf_number)),
            index,
        );
        let known = assigned.ok().and_then(|assigned| assigned.addresses.first().map(ToString::to_string));
        let metadata = claim.metadata;
        let (name, uid) = (metadata.name.context("a name")?, metadata.uid.context("a UID")?);
        let claim = ClaimRef { namespace: "default".into(), name: name.clone(), uid };
        self.claims.prepare(claim).await.map_err(|error| anyhow!("{name}: {error}"))?;
        let path = format!("/run/netns/{name}");
        self.kernel.add_netns(&path, 1000 + pod as i32);
        let sandbox = Sandbox {
            id: format!("sandbox-{name}"),
            pod_uid: format!("pod-{name}"),
            pod_name: name.clone(),
            pod_namespace: "default".into(),
            netns: Some(path.into()),
            lists_namespaces: true,
            pid: 1000 + pod as u32,
        };
        let attacher = self.claims.attacher.clone();
        let attached =
            tokio::task::spawn_blocking(move || attacher.run(&sandbox, Instant::now() + SOON)).await?;
        attached.map_err(|error| anyhow!("{name}: {}", error.sentence()))?;
        let entry = self.claims.engine.site.ledger.entry(&format!("uid-{name}"));
        let entry = entry.map_err(|error| anyhow!(error.sentence()))?.context("an entry")?;
        let address = entry.vfs.iter().flat_map(|vf| &vf.addresses).next();
        let address = address.with_context(|| format!("{name} has no address"))?.to_string();
        Ok((known.as_ref() == Some(&address), address))
    }
}
