//! The NRI plugin over real sockets: against bytes written by hand, and against a runtime that behaves like containerd.

// A test may panic, also in the functions that its #[test] calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sriov_dra::attach::nri::fake::{Events, Failure, FakeRuntime, Options, Registered};
use sriov_dra::attach::nri::proto::api;
use sriov_dra::attach::nri::{
    Adjustment, Config, Connection, Container, NriError, Plugin, PodEvents, RunErrors, Sandbox,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(5);
const SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";

/// Pods whose names say what happens to them: `slow` ones wait at a gate, `bad` ones fail, `defect` ones panic.
#[derive(Default)]
struct Pods {
    log: Mutex<Vec<String>>,
    seen: Mutex<Vec<Sandbox>>,
    gate: watch::Sender<bool>,
    reply: Mutex<Vec<(String, String)>>,
    synchronized: Mutex<Vec<(Vec<Sandbox>, Vec<Container>)>>,
}

impl Pods {
    fn log(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    async fn until(&self, line: &str) {
        let there = async {
            while !self.lines().iter().any(|l| l == line) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, there)
            .await
            .unwrap_or_else(|_| panic!("no {line:?} in {:?}", self.lines()));
    }

    async fn event(&self, what: &str, sandbox: Sandbox) -> Result<(), String> {
        let name = sandbox.pod_name.clone();
        self.seen.lock().unwrap().push(sandbox);
        self.log(format!("{what} {name} begins"));
        if name.contains("slow") {
            self.gate.subscribe().wait_for(|open| *open).await.unwrap();
        }
        assert!(!name.contains("defect"), "no such ledger entry");
        self.log(format!("{what} {name} ends"));
        if name.contains("bad") { Err("VF 0000:81:00.2 is gone".into()) } else { Ok(()) }
    }
}

impl PodEvents for Pods {
    async fn run(&self, sandbox: Sandbox) -> Result<(), String> {
        self.event("run", sandbox).await
    }
    async fn stop(&self, sandbox: Sandbox) -> Result<(), String> {
        self.event("stop", sandbox).await
    }
    async fn remove(&self, sandbox: Sandbox) -> Result<(), String> {
        self.event("remove", sandbox).await
    }
    async fn create_container(&self, sandbox: Sandbox, container: Container) -> Result<Adjustment, String> {
        self.log(format!("create {} with {} variables", container.name, container.env.len()));
        self.event("create", sandbox).await?;
        let env = self.reply.lock().unwrap().clone();
        let files = match env.iter().any(|(key, _)| key == "A") {
            true => vec![("/run/there".into(), "/run/here".into())],
            false => vec![],
        };
        Ok(Adjustment { env, files, ..Adjustment::default() })
    }
    async fn synchronize(&self, sandboxes: Vec<Sandbox>, containers: Vec<Container>) {
        let slow = sandboxes.iter().any(|s| s.pod_name.contains("slow"));
        self.log("synchronize begins".into());
        if slow {
            self.gate.subscribe().wait_for(|open| *open).await.unwrap();
        }
        self.synchronized.lock().unwrap().push((sandboxes, containers));
        self.log("synchronize ends".into());
    }
}

struct Running {
    dir: tempfile::TempDir,
    pods: Arc<Pods>,
    connection: watch::Receiver<Connection>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start() -> Self {
        Self::start_with(RunErrors::Answer)
    }

    fn start_with(run_errors: RunErrors) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { run_errors, ..Config::new(socket(dir.path()), "sriov-dra", "10") };
        let plugin = Plugin::new(config).expect("settings are fine");
        let (pods, stop, connection) =
            (Arc::<Pods>::default(), CancellationToken::new(), plugin.connection());
        let task = tokio::spawn(plugin.run(Arc::clone(&pods), stop.clone()));
        Self { dir, pods, connection, stop, task }
    }

    fn socket(&self) -> PathBuf {
        socket(self.dir.path())
    }

    fn runtime(&self, options: Options) -> FakeRuntime {
        FakeRuntime::listen(&self.socket(), options).expect("listen")
    }

    async fn register(&mut self, options: Options) -> (FakeRuntime, Registered) {
        let runtime = self.runtime(options);
        let registered = accept(&runtime).await;
        self.connected(true).await;
        (runtime, registered)
    }

    async fn connected(&mut self, wanted: bool) -> Connection {
        let state = self.connection.wait_for(|c| matches!(c, Connection::Connected { .. }) == wanted);
        tokio::time::timeout(SOON, state).await.expect("state in time").expect("plugin lives").clone()
    }

    async fn reason(&mut self) -> String {
        let known = |c: &Connection| matches!(c, Connection::Disconnected { reason: Some(_), .. });
        let state = tokio::time::timeout(SOON, self.connection.wait_for(known)).await.expect("in time");
        match &*state.expect("plugin lives") {
            Connection::Disconnected { reason: Some(reason), .. } => reason.clone(),
            other => panic!("{other:?}"),
        }
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.task).await.expect("the plugin ends").expect("without a panic");
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("nri/nri.sock")
}

async fn accept(runtime: &FakeRuntime) -> Registered {
    tokio::time::timeout(SOON, runtime.accept(Vec::new(), Vec::new()))
        .await
        .expect("in time")
        .expect("registers")
}

fn pod(name: &str) -> api::PodSandbox {
    let namespace = |kind: &str, path: &str| api::LinuxNamespace { r#type: kind.into(), path: path.into() };
    let namespaces = vec![namespace("ipc", "/proc/7/ns/ipc"), namespace("network", "/var/run/netns/cni-1")];
    api::PodSandbox {
        id: format!("sandbox-{name}"),
        name: name.into(),
        uid: format!("uid-{name}"),
        namespace: "team-a".into(),
        pid: 4711,
        linux: Some(api::LinuxPodSandbox { namespaces, ..Default::default() }),
        ..Default::default()
    }
}

fn container(name: &str, env: Vec<String>) -> api::Container {
    api::Container { id: format!("id-{name}"), name: name.into(), env, ..Default::default() }
}

fn quick() -> Options {
    Options { request_timeout: Duration::from_millis(500), ..Options::default() }
}

// ---- bytes by hand: an own reading of the tables, without the crate's codec --------------------------------------

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![number << 3 | 2], varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn number(number: u8, value: u64) -> Vec<u8> {
    [vec![number << 3], varint(value)].concat()
}

fn mux(connection: u32, payload: &[u8]) -> Vec<u8> {
    [&connection.to_be_bytes()[..], &(payload.len() as u32).to_be_bytes(), payload].concat()
}

fn ttrpc(stream: u32, kind: u8, data: &[u8]) -> Vec<u8> {
    [&(data.len() as u32).to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], data].concat()
}

fn ask(stream: u32, method: &str, payload: &[u8], timeout: Duration) -> Vec<u8> {
    let nanos = timeout.as_nanos() as u64;
    let data =
        [field(1, SERVICE.as_bytes()), field(2, method.as_bytes()), field(3, payload), number(4, nanos)];
    ttrpc(stream, 1, &data.concat())
}

fn read_frame(stream: &mut UnixStream) -> (u32, Vec<u8>) {
    let mut header = [0; 8];
    stream.read_exact(&mut header).expect("mux header");
    let connection = u32::from_be_bytes(header[..4].try_into().unwrap());
    let length = u32::from_be_bytes(header[4..].try_into().unwrap());
    assert!(length <= 4096, "a frame of {length} bytes breaks the Go mux");
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).expect("mux payload");
    (connection, payload)
}

/// The ttrpc message of one connection: stream, type, data; and the number of frames it came in.
fn read_message(stream: &mut UnixStream, connection: u32) -> (u32, u8, Vec<u8>, usize) {
    let (mut bytes, mut frames) = (Vec::new(), 0);
    loop {
        let (from, payload) = read_frame(stream);
        assert_eq!(from, connection);
        bytes.extend(payload);
        frames += 1;
        if bytes.len() >= 10 {
            let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
            if bytes.len() >= 10 + length {
                assert_eq!(bytes.len(), 10 + length, "nothing else is under way");
                let id = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
                assert_eq!(bytes[9], 0, "unary messages have no flags");
                return (id, bytes[8], bytes.split_off(10), frames);
            }
        }
    }
}

/// Skips what is not this request; its stream.
fn await_request(stream: &mut UnixStream, method: &str) -> u32 {
    loop {
        let (connection, message) = read_frame(stream);
        if connection == 1 && message.windows(method.len()).any(|w| w == method.as_bytes()) {
            return u32::from_be_bytes(message[4..8].try_into().unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_written_from_the_tables_by_hand_is_understood() {
    let running = Running::start();
    std::fs::create_dir_all(running.socket().parent().unwrap()).unwrap();
    let listener = UnixListener::bind(running.socket()).unwrap();
    let big: Vec<(String, String)> = vec![("BIG".into(), "x".repeat(100_000))];
    *running.pods.reply.lock().unwrap() = big.clone();

    let by_hand = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();

        // RegisterPlugin, byte for byte, in one frame of connection 2.
        let (connection, message) = read_frame(&mut stream);
        let payload = [field(1, b"sriov-dra"), field(2, b"10")].concat();
        let data = [
            field(1, b"nri.pkg.api.v1alpha1.Runtime"),
            field(2, b"RegisterPlugin"),
            field(3, &payload),
            number(4, 10_000_000_000),
        ]
        .concat();
        assert_eq!((connection, message), (2, ttrpc(1, 1, &data)));

        // Configure before the answer, cut into frames of one byte and mixed with a connection nobody knows.
        let configure =
            [field(2, b"containerd"), field(3, b"2.1.9"), number(4, 5000), number(5, 2000)].concat();
        for byte in ask(1, "Configure", &configure, SOON) {
            stream.write_all(&[mux(77, b"noise"), mux(1, &[byte])].concat()).unwrap();
        }
        let (connection, reply) = read_frame(&mut stream);
        assert_eq!((connection, reply), (1, ttrpc(1, 2, &field(2, &[0x10, 0x0f]))));
        stream.write_all(&mux(2, &ttrpc(1, 2, &[]))).unwrap();

        stream.write_all(&mux(1, &ask(3, "Synchronize", &[], SOON))).unwrap();
        assert_eq!(read_message(&mut stream, 1), (3, 2, vec![], 1));

        // 100 kB in frames of 4096 bytes, both ways.
        let pod = [field(1, b"sb"), field(2, b"web"), field(3, b"uid"), field(4, b"team-a")].concat();
        let variable = format!("V={}", "y".repeat(100_000));
        let container = [field(1, b"c1"), field(3, b"main"), field(8, variable.as_bytes())].concat();
        let request = ask(5, "CreateContainer", &[field(1, &pod), field(2, &container)].concat(), SOON);
        for chunk in request.chunks(4096) {
            stream.write_all(&mux(1, chunk)).unwrap();
        }
        let (id, kind, data, frames) = read_message(&mut stream, 1);
        let variable = [field(1, b"BIG"), field(2, "x".repeat(100_000).as_bytes())].concat();
        let response = field(1, &field(4, &variable));
        assert_eq!((id, kind, data == field(2, &response)), (5, 2, true));
        assert_eq!(frames, 25);

        // The request's own limit counts where it is shorter than Configure's.
        let since = Instant::now();
        let slow = [field(1, b"sb2"), field(2, b"slow"), field(4, b"team-a")].concat();
        let change = [number(1, 1), field(2, &slow)].concat();
        stream.write_all(&mux(1, &ask(7, "StateChange", &change, Duration::from_secs(1)))).unwrap();
        let (id, kind, data, _) = read_message(&mut stream, 1);
        assert!(since.elapsed() < Duration::from_millis(950), "{:?}", since.elapsed());
        let sentence = b"sriov-dra is still attaching the VFs of pod team-a/slow; the kubelet will try again";
        let status = [number(1, 2), field(2, sentence)].concat();
        assert_eq!((id, kind, data), (7, 2, field(1, &status)));

        // Unknown method, unknown service: code 12, and the connection goes on.
        stream.write_all(&mux(1, &ask(9, "UpdatePodSandbox", &[], SOON))).unwrap();
        let (id, _, data, _) = read_message(&mut stream, 1);
        assert_eq!((id, &data[2..4]), (9, &number(1, 12)[..]));
        let other = [field(1, b"other.Service"), field(2, b"Configure")].concat();
        stream.write_all(&mux(1, &ttrpc(11, 1, &other))).unwrap();
        let (id, _, data, _) = read_message(&mut stream, 1);
        assert_eq!((id, &data[2..4]), (11, &number(1, 12)[..]));
    });
    by_hand.await.unwrap();
    assert!(running.pods.lines().contains(&"create main with 1 variables".to_owned()));
    running.end().await;
}

// ---- against the runtime double ----------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn the_handshake_asks_for_exactly_four_events_and_shows_the_runtime() {
    for configure_first in [false, true] {
        let mut running = Running::start();
        let (_runtime, plugin) = running.register(Options { configure_first, ..quick() }).await;
        assert_eq!((plugin.name.as_str(), plugin.index.as_str(), plugin.mask), ("sriov-dra", "10", 0xf));
        let Connection::Connected { runtime, .. } = running.connected(true).await else { unreachable!() };
        assert_eq!((runtime.name.as_str(), runtime.version.as_str()), ("fake", "1.0"));
        assert_eq!(runtime.request_timeout, Duration::from_millis(500));
        running.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_in_both_forms_with_what_the_runtime_knows() {
    for events in [Events::StateChange, Events::Dedicated] {
        let mut running = Running::start();
        let (_runtime, plugin) = running.register(Options { events, ..quick() }).await;
        *running.pods.reply.lock().unwrap() = vec![("A".into(), "1".into())];
        let web = pod("web");
        assert_eq!(plugin.run_pod_sandbox(&web).await, Ok(()));
        let adjustment = plugin.create_container(&web, &container("main", vec!["K=V".into()])).await;
        assert_eq!(
            adjustment,
            Ok(Adjustment {
                env: vec![("A".into(), "1".into())],
                files: vec![("/run/there".into(), "/run/here".into())],
                ..Adjustment::default()
            })
        );
        assert_eq!(plugin.stop_pod_sandbox(&web).await, Ok(()));
        assert_eq!(plugin.remove_pod_sandbox(&web).await, Ok(()));
        let calls: Vec<_> =
            running.pods.lines().into_iter().filter(|l| l.ends_with("ends") && l.contains("web")).collect();
        assert_eq!(
            calls,
            ["run web ends", "create web ends", "stop web ends", "remove web ends"],
            "{events:?}"
        );
        let expected = Sandbox {
            id: "sandbox-web".into(),
            pod_uid: "uid-web".into(),
            pod_name: "web".into(),
            pod_namespace: "team-a".into(),
            netns: Some("/var/run/netns/cni-1".into()),
            lists_namespaces: true,
            pid: 4711,
        };
        assert!(running.pods.seen.lock().unwrap().iter().all(|s| *s == expected));
        running.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_network_pod_differs_from_a_runtime_that_does_not_list_namespaces() {
    let mut running = Running::start();
    let (_runtime, plugin) = running.register(quick()).await;
    let mut host = pod("host");
    host.linux.as_mut().unwrap().namespaces.retain(|n| n.r#type != "network");
    let mut empty = pod("empty");
    empty.linux.as_mut().unwrap().namespaces[1].path.clear();
    let old = api::PodSandbox { linux: None, ..pod("old") };
    for sandbox in [&host, &empty, &old] {
        plugin.run_pod_sandbox(sandbox).await.expect("run");
    }
    let seen: HashMap<_, _> = running
        .pods
        .seen
        .lock()
        .unwrap()
        .iter()
        .map(|s| (s.pod_name.clone(), (s.netns.clone(), s.lists_namespaces)))
        .collect();
    assert_eq!(seen["host"], (None, true));
    assert_eq!(seen["empty"], (None, true));
    assert_eq!(seen["old"], (None, false));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_reaches_the_runtime_as_it_is_and_a_panic_as_an_error() {
    let mut running = Running::start();
    // Writing a panic's backtrace takes a busy machine longer than a short timeout.
    let patient = Options { request_timeout: Duration::from_secs(30), ..quick() };
    let (_runtime, plugin) = running.register(patient).await;
    let refused = |outcome: Result<(), Failure>| match outcome {
        Err(Failure::Refused { code: 2, message }) => message,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(plugin.run_pod_sandbox(&pod("bad")).await), "VF 0000:81:00.2 is gone");
    let defect = refused(plugin.run_pod_sandbox(&pod("defect")).await);
    assert!(defect.contains("defect while attaching") && defect.contains("no such ledger entry"), "{defect}");
    let created = plugin.create_container(&pod("bad"), &container("main", Vec::new())).await;
    assert_eq!(created, Err(Failure::Refused { code: 2, message: "VF 0000:81:00.2 is gone".into() }));
    let nothing = plugin.call(SERVICE, "CreateContainer", Vec::new()).await;
    assert!(
        matches!(&nothing, Err(Failure::Refused { code: 3, message }) if message.contains("no pod")),
        "{nothing:?}"
    );
    assert_eq!(plugin.run_pod_sandbox(&pod("web")).await, Ok(()));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_work_is_answered_with_an_error_in_time_goes_on_and_keeps_the_connection() {
    let mut running = Running::start();
    let (_runtime, plugin) = running.register(quick()).await;
    let since = Instant::now();
    let outcome = plugin.run_pod_sandbox(&pod("slow")).await;
    let took = since.elapsed();
    let message =
        "sriov-dra is still attaching the VFs of pod team-a/slow; the kubelet will try again".to_owned();
    assert_eq!(outcome, Err(Failure::Refused { code: 2, message }));
    assert!((290..480).contains(&took.as_millis()), "60 % of 500 ms are 300 ms, not {took:?}");
    let created = plugin.create_container(&pod("slow"), &container("main", Vec::new())).await;
    let Err(Failure::Refused { message, .. }) = created else { panic!("{created:?}") };
    assert!(message.contains("still checking the VFs of container main in pod team-a/slow"), "{message}");

    running.pods.gate.send_replace(true);
    running.pods.until("run slow ends").await;
    running.pods.until("create slow ends").await;
    assert_eq!(plugin.run_pod_sandbox(&pod("slow")).await, Ok(()), "the same connection serves the retry");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_takes_longer_than_a_runtime_waits_keeps_its_second_sandbox_and_its_containers_are_refused()
 {
    let mut running = Running::start();
    let (_runtime, plugin) = running.register(quick()).await;
    assert!(
        plugin.run_pod_sandbox(&pod("slow")).await.is_err(),
        "a runtime that was busy once may be faster now"
    );
    assert_eq!(plugin.run_pod_sandbox(&pod("slow")).await, Ok(()), "else it would be made anew for ever");
    let created = plugin.create_container(&pod("slow"), &container("main", Vec::new())).await;
    assert!(matches!(created, Err(Failure::Refused { code: 2, .. })), "{created:?}");
    for _ in 0..2 {
        let failed = plugin.run_pod_sandbox(&pod("bad")).await;
        assert!(
            matches!(failed, Err(Failure::Refused { .. })),
            "what fails is refused each time: {failed:?}"
        );
    }
    running.pods.gate.send_replace(true);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_failed_sandbox_harms_the_runtime_only_the_containers_are_refused() {
    let mut running = Running::start_with(RunErrors::LeaveToContainers);
    let (_runtime, plugin) = running.register(quick()).await;
    for name in ["bad", "slow", "defect"] {
        assert_eq!(plugin.run_pod_sandbox(&pod(name)).await, Ok(()), "{name}");
        let created = plugin.create_container(&pod(name), &container("main", Vec::new())).await;
        assert!(matches!(created, Err(Failure::Refused { code: 2, .. })), "{name}: {created:?}");
    }
    let stopped = plugin.stop_pod_sandbox(&pod("bad")).await;
    assert!(matches!(stopped, Err(Failure::Refused { code: 2, .. })), "{stopped:?}");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_slow_pod_does_not_hold_up_another() {
    let mut running = Running::start();
    let (_runtime, plugin) = running.register(Options::default()).await;
    let (plugin, slow) = (Arc::new(plugin), pod("slow"));
    let other = Arc::clone(&plugin);
    let waiting = tokio::spawn(async move { other.run_pod_sandbox(&slow).await });
    running.pods.until("run slow begins").await;
    assert_eq!(plugin.run_pod_sandbox(&pod("web")).await, Ok(()));
    running.pods.gate.send_replace(true);
    assert_eq!(waiting.await.unwrap(), Ok(()));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_plugin_does_not_serve_is_unimplemented_and_garbage_is_an_error() {
    let mut running = Running::start();
    let (_runtime, plugin) = running.register(quick()).await;
    for (service, method) in [(SERVICE, "PostStartContainer"), (SERVICE, ""), ("x.Y", "Configure"), ("", "")]
    {
        let outcome = plugin.call(service, method, Vec::new()).await;
        assert!(matches!(outcome, Err(Failure::Refused { code: 12, .. })), "{service}/{method}: {outcome:?}");
    }
    for method in ["RunPodSandbox", "StateChange", "CreateContainer", "Synchronize"] {
        let outcome = plugin.call(SERVICE, method, vec![0x0a, 0xff, 0xff, 0x01, 0x02]).await;
        assert!(matches!(outcome, Err(Failure::Refused { code: 3, .. })), "{method}: {outcome:?}");
    }
    // An event nobody subscribed to, sent nevertheless, and the runtime's good-bye.
    assert_eq!(plugin.call(SERVICE, "StateChange", vec![0x08, 7]).await, Ok(Vec::new()));
    assert_eq!(plugin.call(SERVICE, "Shutdown", Vec::new()).await, Ok(Vec::new()));
    assert_eq!(plugin.run_pod_sandbox(&pod("web")).await, Ok(()));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn synchronize_collects_its_parts_and_is_answered_before_the_work_is_done() {
    let mut running = Running::start();
    let runtime = running.runtime(Options { part: 2, ..quick() });
    let pods: Vec<_> = ["slow-a", "b", "c", "d", "e"].map(pod).into();
    let containers = [0, 1, 2, 3, 4].map(|state| api::Container {
        state,
        pod_sandbox_id: "sandbox-b".into(),
        ..container(&format!("c{state}"), vec!["K=V".into()])
    });
    let plugin = runtime.accept(pods, containers.into()).await.expect("registers");
    running.connected(true).await;
    running.pods.until("synchronize begins").await;
    assert_eq!(plugin.run_pod_sandbox(&pod("web")).await, Ok(()), "events come while the work goes on");
    // A second list waits for the first.
    plugin.synchronize(vec![pod("late")], Vec::new()).await.expect("answered at once");
    running.pods.gate.send_replace(true);
    let both = async {
        while running.pods.synchronized.lock().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, both).await.expect("both lists are worked on");
    let seen = running.pods.synchronized.lock().unwrap().clone();
    let names = |n: usize| seen[n].0.iter().map(|s| s.pod_name.clone()).collect::<Vec<_>>();
    assert_eq!((names(0).join(" "), names(1).join(" ")), ("slow-a b c d e".into(), "late".into()));
    let live: Vec<bool> = seen[0].1.iter().map(|c| c.live).collect();
    assert_eq!(live, [false, true, true, true, false]);
    assert_eq!((seen[0].1[1].sandbox_id.as_str(), seen[0].1[1].env.len()), ("sandbox-b", 1));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_comes_back_when_the_runtime_does() {
    let mut running = Running::start();
    let reason = running.reason().await;
    assert!(reason.contains("nri/nri.sock") && reason.contains("NRI enabled"), "{reason}");

    let (runtime, plugin) = running.register(quick()).await;
    drop(plugin);
    let reason = running.reason().await;
    assert!(reason.contains("the runtime closed the NRI connection"), "{reason}");
    let again = accept(&runtime).await;
    running.connected(true).await;
    assert_eq!(again.run_pod_sandbox(&pod("web")).await, Ok(()));

    // The runtime is replaced: another process, a new socket at the same path.
    drop((runtime, again));
    running.connected(false).await;
    std::fs::remove_file(running.socket()).unwrap();
    let (_runtime, plugin) = running.register(quick()).await;
    assert_eq!(plugin.run_pod_sandbox(&pod("web")).await, Ok(()));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_talks_garbage_or_refuses_is_named_and_tried_again() {
    let mut running = Running::start();
    std::fs::create_dir_all(running.socket().parent().unwrap()).unwrap();
    let listener = UnixListener::bind(running.socket()).unwrap();
    let (listener, _) = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        (listener, stream.read(&mut [0; 4096]).unwrap())
    })
    .await
    .unwrap();
    running
        .connection
        .wait_for(|c| matches!(c, Connection::Disconnected { reason: Some(r), .. } if r.contains("malformed NRI stream")))
        .await
        .unwrap();
    let listener = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_frame(&mut stream);
        let status = [number(1, 2), field(2, b"invalid plugin events: 0x2000")].concat();
        stream.write_all(&mux(2, &ttrpc(1, 2, &field(1, &status)))).unwrap();
        listener
    })
    .await
    .unwrap();
    running
        .connection
        .wait_for(|c| {
            let wanted = "refused the NRI registration: invalid plugin events: 0x2000 (code 2)";
            matches!(c, Connection::Disconnected { reason: Some(r), .. } if r.contains(wanted))
        })
        .await
        .unwrap();
    drop(listener);
    let (_runtime, plugin) = running.register(quick()).await;
    assert_eq!(plugin.run_pod_sandbox(&pod("web")).await, Ok(()));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_answers_what_is_open_before_it_closes() {
    let mut running = Running::start();
    let (_runtime, plugin) = running.register(Options::default()).await;
    let plugin = Arc::new(plugin);
    let (other, slow) = (Arc::clone(&plugin), pod("slow"));
    let open = tokio::spawn(async move { other.run_pod_sandbox(&slow).await });
    running.pods.until("run slow begins").await;
    running.stop.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!open.is_finished() && !running.task.is_finished());
    running.pods.gate.send_replace(true);
    assert_eq!(open.await.unwrap(), Ok(()), "a pod would have started without its VFs");
    tokio::time::timeout(SOON, plugin.closed()).await.expect("then it closes");
    running.connected(false).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_when_the_runtime_dies_in_the_middle_of_it() {
    let mut running = Running::start();
    let (runtime, plugin) = running.register(quick()).await;
    let (plugin, slow) = (Arc::new(plugin), pod("slow"));
    let other = Arc::clone(&plugin);
    let asking = tokio::spawn(async move { other.run_pod_sandbox(&slow).await });
    running.pods.until("run slow begins").await;
    asking.abort();
    let _ = asking.await;
    drop((plugin, runtime));
    running.connected(false).await;
    assert!(!running.pods.lines().contains(&"run slow ends".to_owned()));
    running.pods.gate.send_replace(true);
    running.pods.until("run slow ends").await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_double_cuts_off_a_plugin_that_does_not_answer_as_containerd_does() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { configure_first: true, ..quick() };
    let runtime = FakeRuntime::listen(&socket(dir.path()), options).expect("listen");
    let path = socket(dir.path());
    let silent = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let payload = [field(1, b"silent"), field(2, b"99")].concat();
        let data =
            [field(1, b"nri.pkg.api.v1alpha1.Runtime"), field(2, b"RegisterPlugin"), field(3, &payload)];
        stream.write_all(&mux(2, &ttrpc(1, 1, &data.concat()))).unwrap();
        // The answer to RegisterPlugin comes on connection 2, before or after these.
        for (method, answer) in [("Configure", field(2, &[0x10, 0x01])), ("Synchronize", vec![])] {
            let id = await_request(&mut stream, method);
            stream.write_all(&mux(1, &ttrpc(id, 2, &answer))).unwrap();
        }
        await_request(&mut stream, "StateChange"); // and no answer
        stream.read(&mut [0; 1]).expect("the end of the connection")
    });
    let plugin = accept(&runtime).await;
    assert_eq!((plugin.name.as_str(), plugin.mask), ("silent", 0x1));
    assert_eq!(plugin.stop_pod_sandbox(&pod("web")).await, Ok(()), "not subscribed to, so not sent");
    assert_eq!(plugin.run_pod_sandbox(&pod("web")).await, Err(Failure::TimedOut));
    assert_eq!(plugin.run_pod_sandbox(&pod("web")).await, Err(Failure::Gone));
    assert_eq!(silent.await.unwrap(), 0);
}

#[test]
fn settings_that_every_runtime_refuses_are_refused_here() {
    let refused = |name: &str, index: &str| {
        let config = Config::new("/x", name, index);
        match Plugin::new(config) {
            Err(error @ NriError::Setting { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert!(refused("sriov-dra", "1").contains("exactly two digits"));
    assert!(refused("sriov-dra", "1a").contains("\"1a\""));
    assert!(refused("a/b", "10").contains("name \"a/b\""));
    assert!(refused("", "10").contains("letters, digits"));
}
