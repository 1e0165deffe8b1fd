//! Two nodes, wired rail by rail, each with a pod of an example's claim template.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{AllocatedDeviceStatus, DeviceClass, ResourceClaim};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use sriov_dra::address::AddressPool;
use sriov_dra::allocate::{Cluster, Node, Taken, Wanted, allocate};
use sriov_dra::cli::documents::Documents;
use sriov_dra::demo::apiserver::Store;
use sriov_dra::demo::claims::of_template;
use sriov_dra::demo::stage::{Part, Stage};
use sriov_dra::demo::world::{Shape, World, enter_private_namespaces};

const BINARY: &str = env!("CARGO_BIN_EXE_sriov-dra");
const DRIVER: &str = "sriov-dra.io";
/// For any one thing, with room for a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Runs a program in a network namespace.
pub fn inside(netns: &Path, command: &str) -> String {
    let netns = format!("--net={}", netns.display());
    let out = Command::new("nsenter").arg(netns).args(["sh", "-c", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// A pod that runs on a node.
pub struct OnNode {
    netns: PathBuf,
    /// `status.devices` of its claim.
    pub status: Vec<AllocatedDeviceStatus>,
    go_on: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl OnNode {
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// What a command prints in the pod's network namespace, its lines without white space at their ends.
    pub fn says(&self, command: &str) -> Vec<String> {
        let text = inside(&self.netns, command);
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// Addresses of net1, net2 and so on.
    pub fn addresses(&self) -> BTreeMap<u32, Ipv4Addr> {
        let lines = self.says("ip -o -4 addr");
        let of = |line: &String| {
            let mut words = line.split(' ');
            let number = words.nth(1)?.strip_prefix("net")?.parse().ok()?;
            Some((number, words.nth(1)?.split('/').next()?.parse().ok()?))
        };
        lines.iter().filter_map(of).collect()
    }
}

/// Both pods; the nodes end with this value.
pub struct Pair {
    pub pods: [OnNode; 2],
    _turn: MutexGuard<'static, ()>,
}

impl Drop for Pair {
    fn drop(&mut self) {
        for node in &mut self.pods {
            // It ended by itself where a test fails.
            let _ = node.go_on.send(());
        }
        for node in &mut self.pods {
            if let Some(thread) = node.thread.take()
                && let Err(panic) = thread.join()
                && !std::thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// What a plan needs besides the example.
pub struct Plan {
    pub file: &'static str,
    pub shape: Shape,
    /// Addresses of the ports on the hosts, by node and PF: `ip` commands.
    pub host: fn(usize, &Shape) -> Vec<String>,
    /// The fabric, where the gateways are: a shell script.
    pub fabric: String,
    /// All rails end in one switch.
    pub one_switch: bool,
}

enum News {
    Built(PathBuf),
    Runs(PathBuf, Vec<AllocatedDeviceStatus>),
}

/// Two agents with two hundred links are enough at once.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Starts both nodes, and a pod on each.
pub fn start(plan: Plan) -> Pair {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/seeds").join(plan.file));
    let mut example = Documents::default();
    example.parse(plan.file, &text.unwrap(), DRIVER).unwrap();
    assert!(example.faults.is_empty(), "{}", example.sentences());
    let store = Store::default();
    let started: Vec<_> = (0..2)
        .map(|number| {
            let (news, heard) = channel();
            let (go_on, told) = channel();
            let shape = Shape { number: u8::try_from(number).unwrap() + 1, ..plan.shape.clone() };
            let (store, example, host) = (store.clone(), example.clone(), (plan.host)(number, &shape));
            let thread =
                std::thread::spawn(move || live(number, &shape, store, &example, &host, &news, &told));
            (heard, go_on, thread)
        })
        .collect();
    let next =
        |heard: &Receiver<News>| heard.recv_timeout(SOON * 2).expect("a node, whose panic stands above");
    let fabrics: Vec<PathBuf> = started
        .iter()
        .map(|(heard, ..)| match next(heard) {
            News::Built(fabric) => fabric,
            News::Runs(..) => panic!("it can't run yet"),
        })
        .collect();
    cable(&fabrics, &plan);
    started.iter().for_each(|(_, go_on, _)| go_on.send(()).unwrap());
    let pods = started.into_iter().map(|(heard, go_on, thread)| match next(&heard) {
        News::Runs(netns, status) => OnNode { netns, status, go_on, thread: Some(thread) },
        News::Built(_) => panic!("it is built already"),
    });
    let pods = pods.collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("two of them"));
    Pair { pods, _turn: turn }
}

/// Joins the rails of both nodes.
fn cable(fabrics: &[PathBuf], plan: &Plan) {
    let [near, far] = fabrics else { panic!("two of them") };
    let rails = plan.shape.pfs.len();
    let pid = far.iter().nth(2).unwrap().to_str().unwrap();
    let cables = if plan.one_switch { 1 } else { rails };
    for rail in 1..=cables {
        inside(
            near,
            &format!(
                "ip link add up{rail} type veth peer name down{rail} netns {pid} && ip link set up{rail} master rail{rail} up"
            ),
        );
        inside(far, &format!("ip link set down{rail} master rail{rail} up"));
    }
    for fabric in fabrics.iter().filter(|_| plan.one_switch) {
        let ports = (1..=rails).flat_map(|rail| {
            (0..=plan.shape.vfs).map(move |port| format!("ip link set r{rail}p{port} master rail1"))
        });
        inside(fabric, &ports.collect::<Vec<_>>().join(" && "));
    }
    if !plan.fabric.is_empty() {
        inside(near, &plan.fabric);
    }
}

/// The life of a node, in a thread that is in its network namespace.
fn live(
    number: usize,
    shape: &Shape,
    store: Store,
    example: &Documents,
    host: &[String],
    news: &Sender<News>,
    told: &Receiver<()>,
) {
    enter_private_namespaces().unwrap();
    let folder = tempfile::Builder::new().prefix("sdra").tempdir().unwrap();
    let world = World::build_as(shape, Path::new(BINARY), folder.path(), &mut |_| {}).unwrap();
    for command in host {
        // A child is where the thread is that starts it.
        inside(Path::new("/proc/self/ns/net"), command);
    }
    // Its threads are made by this one, and so live in its namespaces.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    news.send(News::Built(world.fabric())).unwrap();
    if told.recv_timeout(SOON).is_err() {
        return;
    }
    let name = format!("worker{}", number + 1);
    runtime.block_on(async {
        let part = Part { node: &name, rails: world.rails(), store, request_timeout: SOON };
        let stage = Stage::start_part(part, Path::new(BINARY), folder.path(), world.sysfs()).await.unwrap();
        if number == 0 {
            apply(&stage, example).await;
        }
        addressed(&stage, &name).await;
        let pod = json!({
            "metadata": {"name": format!("pod-{name}"), "namespace": "default"},
            "spec": {"containers": [{"name": "main", "image": "x"}], "nodeName": name},
        });
        let pod: Pod = stage.create_pod(&serde_json::from_value(pod).unwrap()).await.unwrap();
        let claim = claim(&stage, &name, &pod, example).await;
        let prepared = stage.prepare(&claim).await.unwrap_or_else(|error| panic!("{error:#}"));
        let cluster_network = |netns: &Path| {
            eth0(netns, number);
            Ok(())
        };
        let running = stage.run_with(&pod, cluster_network).await;
        let running = running.unwrap_or_else(|error| panic!("{error:#}\n{}", stage.agent_log()));
        println!(
            "{}: attached on {name} in {:?}",
            example.templates[0].metadata.name.as_deref().unwrap(),
            running.took
        );
        stage.create_container(&running, "main", &[&prepared]).await.unwrap();
        let status = status(&stage, &claim).await;
        news.send(News::Runs(running.netns().unwrap(), status)).unwrap();
        // An error is the end of the test.
        let _ = told.recv_timeout(SOON * 4);
        stage.stop(running).await.unwrap();
        stage.unprepare(&claim).await.unwrap();
    });
}

async fn apply(stage: &Stage, example: &Documents) {
    let client = stage.server.client().unwrap();
    let (pools, classes): (Api<AddressPool>, Api<DeviceClass>) = (Api::all(client.clone()), Api::all(client));
    for pool in &example.pools {
        pools.create(&PostParams::default(), pool).await.unwrap();
    }
    for class in &example.classes {
        classes.create(&PostParams::default(), class).await.unwrap();
    }
}

/// Waits until every VF of the node is published with its address.
async fn addressed(stage: &Stage, node: &str) {
    let until = Instant::now() + SOON;
    loop {
        let slices = stage.slices();
        let of_node = slices.iter().filter(|slice| slice.spec.node_name.as_deref() == Some(node));
        let devices = of_node.flat_map(|slice| slice.spec.devices.iter().flatten());
        let known = |device: &k8s_openapi::api::resource::v1::Device| {
            device.attributes.as_ref().is_some_and(|known| known.contains_key("sriov-dra.io/ipv4"))
        };
        let (with, without): (Vec<_>, Vec<_>) = devices.partition(|device| known(device));
        if !with.is_empty() && without.is_empty() {
            return;
        }
        assert!(
            Instant::now() < until,
            "{} VFs of {node} have no address, {} have; the agent's log:\n{}",
            without.len(),
            with.len(),
            stage.agent_log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The claim of the example's template, as claim controller and scheduler make it.
async fn claim(stage: &Stage, node: &str, pod: &Pod, example: &Documents) -> ResourceClaim {
    let [template] = &example.templates[..] else { panic!("an example with one template") };
    let claim = stage.create_claim(&of_template(pod, "rails", template)).await.unwrap();
    let (slices, classes) = (stage.slices(), stage.server.store().list::<DeviceClass>());
    let cluster = Cluster { slices: &slices, classes: &classes, taken: &Taken::by(&[]) };
    let wanted = Wanted { name: "rails", spec: claim.spec.as_ref().unwrap() };
    let mut found = allocate(&cluster, &[wanted], &Node::named(node)).unwrap_or_else(|why| panic!("{why}"));
    stage.allocate(&claim, found.remove(0), pod).await.unwrap()
}

/// The pod's network of the cluster, as a CNI plugin leaves it.
fn eth0(netns: &Path, number: usize) {
    let net = format!("10.244.{number}");
    inside(
        netns,
        &format!(
            "ip link set lo up && ip link add eth0 type veth peer name eth0peer && ip addr add {net}.5/24 dev eth0 && \
             ip link set eth0peer up && ip link set eth0 up && ip route add default via {net}.1 dev eth0"
        ),
    );
}

/// `status.devices`, which nobody waits for in a cluster.
async fn status(stage: &Stage, claim: &ResourceClaim) -> Vec<AllocatedDeviceStatus> {
    let until = Instant::now() + SOON;
    loop {
        let devices = stage.claim(claim).and_then(|claim| claim.status?.devices).unwrap_or_default();
        if !devices.is_empty() {
            return devices;
        }
        assert!(Instant::now() < until, "no status; the agent's log:\n{}", stage.agent_log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
