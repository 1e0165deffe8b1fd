//! The kubelet room over real sockets: registration, both DRA versions, work that outlives its caller, and the way out.

// A test may panic, also in the functions that its #[test] calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sriov_dra::kubelet::fake::{Driver, FakeKubelet, Version, authority};
use sriov_dra::kubelet::{
    ClaimRef, ClaimService, Config, KubeletError, Plugin, PreparedDevice, Registration,
};
use tokio::sync::{Notify, watch};

const DRIVER: &str = "sriov-dra.io";
const SOON: Duration = Duration::from_secs(5);

/// A driver whose work waits at a gate, fails or panics by the claim's name, and which writes down what it did.
#[derive(Default)]
struct Work {
    log: Mutex<Vec<String>>,
    running: AtomicUsize,
    peak: AtomicUsize,
    gate: watch::Sender<bool>,
    entered: Notify,
}

impl Work {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    fn log(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn open(&self) {
        self.gate.send_replace(true);
    }

    async fn work(&self, what: &str, claim: &ClaimRef) {
        self.log(format!("{what} {} begins", claim.uid));
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(now, Ordering::SeqCst);
        self.entered.notify_waiters();
        if claim.name.contains("slow") {
            self.gate.subscribe().wait_for(|open| *open).await.unwrap();
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.log(format!("{what} {} ends", claim.uid));
    }

    async fn until_running(&self, n: usize) {
        let reached = async {
            while self.running.load(Ordering::SeqCst) < n {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, reached).await.expect("the work did not begin");
    }
}

impl ClaimService for Work {
    async fn prepare(&self, claim: ClaimRef) -> Result<Vec<PreparedDevice>, String> {
        self.work("prepare", &claim).await;
        match claim.name.as_str() {
            "bad" => Err("VF 0000:81:00.2 is gone".into()),
            "mute" => Err(String::new()),
            "defect" => panic!("index out of bounds in the plan"),
            _ => Ok(vec![PreparedDevice {
                request: "main/first".into(),
                pool: "node-a".into(),
                device: "0000-81-00-2".into(),
                cdi_ids: vec![format!("sriov-dra.io/vf={}-main", claim.uid)],
                share_id: Some("5e1f0c4e-0000-4000-8000-000000000001".into()),
            }]),
        }
    }

    async fn unprepare(&self, claim: ClaimRef) -> Result<(), String> {
        self.work("unprepare", &claim).await;
        if claim.name == "bad" { Err("VF 0000:81:00.2 can't be cleaned".into()) } else { Ok(()) }
    }
}

fn claim(uid: &str, name: &str) -> ClaimRef {
    ClaimRef { uid: uid.into(), namespace: "team-a".into(), name: name.into() }
}

async fn start(dir: &Path, work: &Arc<Work>) -> Plugin {
    Plugin::start(Config::new(DRIVER, dir), Arc::clone(work)).await.expect("plugin starts")
}

async fn registered(dir: &Path) -> Driver {
    FakeKubelet::new(dir).register(DRIVER, SOON).await.expect("driver registers")
}

async fn state(plugin: &Plugin, wanted: impl Fn(&Registration) -> bool) -> Registration {
    let mut state = plugin.registration();
    tokio::time::timeout(SOON, state.wait_for(wanted))
        .await
        .expect("state in time")
        .expect("plugin lives")
        .clone()
}

/// One gRPC call in bytes that no h2 library made: preface, SETTINGS, HEADERS with literal fields, an empty message.
/// Returns everything the server sent within half a second.
fn raw_get_info(socket: &Path, authority: &str) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/pluginregistration.Registration/GetInfo"),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("user-agent", "grpc-go/1.79.3"),
        ("te", "trailers"),
        ("grpc-timeout", "999m"),
    ] {
        // RFC 7541 6.2.2, literal without indexing, new name; lengths are 7-bit prefixed integers.
        headers.push(0x00);
        for text in [name, value] {
            if text.len() < 127 {
                headers.push(text.len() as u8);
            } else {
                headers.push(127);
                let rest = text.len() - 127;
                assert!(rest < 128);
                headers.push(rest as u8);
            }
            headers.extend_from_slice(text.as_bytes());
        }
    }
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        out.extend([kind, flags]);
        out.extend(stream.to_be_bytes());
        out.extend(payload);
        out
    };
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[])); // SETTINGS
    bytes.extend(frame(1, 4, 1, &headers)); // HEADERS, END_HEADERS
    bytes.extend(frame(0, 1, 1, &[0; 5])); // DATA, END_STREAM: one empty message
    let mut stream = StdUnixStream::connect(socket).expect("connect");
    stream.write_all(&bytes).expect("write");
    stream.set_read_timeout(Some(Duration::from_millis(500))).expect("timeout");
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        answer.extend_from_slice(&chunk[..n]);
    }
    answer
}

/// Frame types the server sent on stream 1.
fn frames_of_stream_1(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        if u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]) == 1 {
            kinds.push(bytes[3]);
        }
        bytes = &bytes[(9 + length).min(bytes.len())..];
    }
    kinds
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelet_finds_registers_and_calls_the_driver() {
    let dir = tempfile::tempdir().unwrap();
    let work = Work::new();
    let plugin = start(dir.path(), &work).await;
    assert_eq!(*plugin.registration().borrow(), Registration::Waiting);

    let driver = registered(dir.path()).await;
    assert_eq!(driver.info.r#type, "DRAPlugin");
    assert_eq!(driver.info.endpoint, dir.path().join("plugins/sriov-dra.io/dra.sock").display().to_string());
    assert_eq!(driver.info.supported_versions, ["v1.DRAPlugin", "v1beta1.DRAPlugin"]);
    assert_eq!(driver.version, Version::V1);
    assert_eq!(state(&plugin, |s| *s != Registration::Waiting).await, Registration::Registered);

    let answer = driver.prepare(&[claim("u1", "vf")]).await.expect("prepare");
    let device = PreparedDevice {
        request: "main".into(),
        pool: "node-a".into(),
        device: "0000-81-00-2".into(),
        cdi_ids: vec!["sriov-dra.io/vf=u1-main".into()],
        share_id: Some("5e1f0c4e-0000-4000-8000-000000000001".into()),
    };
    assert_eq!(answer, HashMap::from([("u1".into(), Ok(vec![device]))]));
    assert_eq!(
        driver.unprepare(&[claim("u1", "vf")]).await.expect("unprepare"),
        HashMap::from([("u1".into(), Ok(()))])
    );
    assert!(plugin.shutdown().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_knows_only_v1beta1_is_served_without_share_ids() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = start(dir.path(), &Work::new()).await;
    let kubelet = FakeKubelet::knowing(dir.path(), [Version::V1beta1]);
    let driver = kubelet.register(DRIVER, SOON).await.expect("driver registers");
    assert_eq!(driver.version, Version::V1beta1);
    let answer = driver.prepare(&[claim("u1", "vf"), claim("u2", "bad")]).await.expect("prepare");
    let devices = answer["u1"].as_ref().expect("u1 is fine");
    assert_eq!((devices[0].request.as_str(), devices[0].share_id.as_deref()), ("main", None));
    assert_eq!(answer["u2"], Err("VF 0000:81:00.2 is gone".into()));
    let answer = driver.unprepare(&[claim("u1", "vf"), claim("u2", "bad")]).await.expect("unprepare");
    assert_eq!(answer["u1"], Ok(()));
    assert_eq!(answer["u2"], Err("VF 0000:81:00.2 can't be cleaned".into()));
    plugin.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_of_a_go_kubelet_is_accepted_because_of_the_at_sign() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = start(dir.path(), &Work::new()).await;
    let socket = plugin.paths().registration.clone();
    let go = authority(&socket);
    assert!(go.starts_with("%2F") && go.ends_with("plugins_registry%2Fsriov-dra.io@reg.sock"), "{go}");

    let (accepted, refused) = tokio::task::spawn_blocking(move || {
        (raw_get_info(&socket, &go), raw_get_info(&socket, &go.replace('@', "-")))
    })
    .await
    .unwrap();
    assert!(contains(&accepted, "DRAPlugin") && contains(&accepted, "v1beta1.DRAPlugin"));
    assert!(!frames_of_stream_1(&accepted).contains(&3), "the call was reset");
    // The other half of the proof: without the `@` the same call is reset (frame type 3) and nothing is answered.
    assert_eq!(frames_of_stream_1(&refused), [3]);
    assert!(!contains(&refused, "DRAPlugin"));
    plugin.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_registration_is_reported_with_the_kubelets_reason() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = start(dir.path(), &Work::new()).await;
    FakeKubelet::new(dir.path()).refuse(&plugin.paths().registration, "name is taken").await.expect("call");
    assert_eq!(
        state(&plugin, |s| *s != Registration::Waiting).await,
        Registration::Refused("name is taken".into())
    );
    plugin.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_uid_gets_an_entry_and_one_bad_claim_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let work = Work::new();
    let plugin = start(dir.path(), &work).await;
    let driver = registered(dir.path()).await;
    let claims = [
        claim("good", "vf"),
        claim("good", "vf"),
        claim("bad", "bad"),
        claim("mute", "mute"),
        claim("defect", "defect"),
        claim("", "nameless-uid"),
        claim("unnamed", ""),
        claim("twice", "one"),
        claim("twice", "two"),
    ];
    let answer = driver.prepare(&claims).await.expect("prepare");
    let error = |uid: &str| answer[uid].as_ref().expect_err(uid).clone();
    assert_eq!(answer.len(), 7);
    assert!(answer["good"].is_ok());
    assert_eq!(error("bad"), "VF 0000:81:00.2 is gone");
    assert!(error("mute").contains("team-a/mute failed without saying why"), "{}", error("mute"));
    assert!(error("defect").contains("index out of bounds in the plan"), "{}", error("defect"));
    assert!(error("").contains("its uid is empty"), "{}", error(""));
    assert!(error("unnamed").contains("its name is empty"), "{}", error("unnamed"));
    assert!(error("twice").contains("team-a/one") && error("twice").contains("team-a/two"));
    let begun = work.lines().iter().filter(|l| *l == "prepare good begins").count();
    assert_eq!(begun, 1, "a duplicate in one request is one piece of work");

    // A panic does not poison the claim: the next call runs again.
    let again = driver.prepare(&[claim("defect", "vf")]).await.expect("prepare");
    assert!(again["defect"].is_ok());
    assert!(driver.prepare(&[]).await.expect("empty request").is_empty());
    plugin.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_one_request_and_of_several_requests_run_at_the_same_time() {
    let dir = tempfile::tempdir().unwrap();
    let work = Work::new();
    let plugin = start(dir.path(), &work).await;
    let driver = registered(dir.path()).await;
    let (one, other) = (driver.clone(), driver.clone());
    let first = tokio::spawn(async move { one.prepare(&[claim("a", "slow-a"), claim("b", "slow-b")]).await });
    let second = tokio::spawn(async move { other.prepare(&[claim("c", "slow-c")]).await });
    work.until_running(3).await;
    work.open();
    assert_eq!(first.await.unwrap().expect("first").len(), 2);
    assert_eq!(second.await.unwrap().expect("second").len(), 1);
    assert_eq!(work.peak.load(Ordering::SeqCst), 3);
    plugin.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_outlives_the_deadline_of_its_call_and_the_retry_joins_it() {
    let dir = tempfile::tempdir().unwrap();
    let work = Work::new();
    let plugin = start(dir.path(), &work).await;
    let driver = registered(dir.path()).await;
    let cut = driver.prepare_within(&[claim("u1", "slow")], Duration::from_millis(150)).await;
    let code = cut.expect_err("the deadline has passed").code();
    assert!(matches!(code, tonic::Code::DeadlineExceeded | tonic::Code::Cancelled), "{code:?}");
    assert_eq!(work.running.load(Ordering::SeqCst), 1, "the work was cut in half");

    let retry = driver.clone();
    let retry = tokio::spawn(async move { retry.prepare(&[claim("u1", "slow")]).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    work.open();
    assert!(retry.await.unwrap().expect("retry")["u1"].is_ok());
    assert_eq!(work.lines(), ["prepare u1 begins", "prepare u1 ends"]);

    // Joined work is not a cache: a later call does it again.
    assert!(driver.prepare(&[claim("u1", "slow")]).await.expect("later")["u1"].is_ok());
    assert_eq!(work.lines().len(), 4);
    plugin.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prepare_and_unprepare_of_one_claim_take_turns_in_the_order_they_came() {
    let dir = tempfile::tempdir().unwrap();
    let work = Work::new();
    let plugin = start(dir.path(), &work).await;
    let driver = registered(dir.path()).await;
    let spawn = |prepare: bool| {
        let driver = driver.clone();
        tokio::spawn(async move {
            let claims = [claim("u1", "slow")];
            match prepare {
                true => driver.prepare(&claims).await.map(|m| m["u1"].is_ok()),
                false => driver.unprepare(&claims).await.map(|m| m["u1"].is_ok()),
            }
        })
    };
    let mut calls = Vec::new();
    for prepare in [true, false, true] {
        calls.push(spawn(prepare));
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
    assert_eq!(work.lines(), ["prepare u1 begins"]);
    work.open();
    for call in calls {
        assert!(call.await.unwrap().expect("call"));
    }
    let expected =
        ["prepare", "unprepare", "prepare"].map(|w| [format!("{w} u1 begins"), format!("{w} u1 ends")]);
    assert_eq!(work.lines(), expected.concat());
    assert_eq!(work.peak.load(Ordering::SeqCst), 1);
    plugin.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_sockets_come_back_and_the_kubelet_registers_again() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = start(dir.path(), &Work::new()).await;
    registered(dir.path()).await;
    state(&plugin, |s| *s == Registration::Registered).await;

    // A kubelet that lost its directories, not only the files.
    std::fs::remove_dir_all(dir.path().join("plugins_registry")).unwrap();
    std::fs::remove_dir_all(dir.path().join("plugins")).unwrap();
    state(&plugin, |s| *s == Registration::Waiting).await;
    let driver = registered(dir.path()).await;
    assert!(driver.prepare(&[claim("u1", "vf")]).await.expect("prepare")["u1"].is_ok());
    state(&plugin, |s| *s == Registration::Registered).await;

    // The DRA socket alone: nothing to tell the kubelet, but it has to answer again.
    std::fs::remove_file(&plugin.paths().dra).unwrap();
    let since = Instant::now();
    while !plugin.paths().dra.exists() {
        assert!(since.elapsed() < SOON, "the DRA socket did not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let fresh = Driver::at(&plugin.paths().dra, Version::V1);
    assert!(fresh.prepare(&[claim("u2", "vf")]).await.expect("prepare")["u2"].is_ok());
    assert_eq!(*plugin.registration().borrow(), Registration::Registered);
    plugin.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_a_sockets_place_is_reported_and_given_way_to_when_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = start(dir.path(), &Work::new()).await;
    registered(dir.path()).await;
    state(&plugin, |s| *s == Registration::Registered).await;
    std::fs::remove_file(&plugin.paths().dra).unwrap();
    std::fs::write(&plugin.paths().dra, "not a socket").unwrap();
    let broken = state(&plugin, |s| matches!(s, Registration::Broken(_))).await;
    let Registration::Broken(why) = broken else { unreachable!() };
    assert!(why.contains("dra.sock exists and is not a socket"), "{why}");
    std::fs::remove_file(&plugin.paths().dra).unwrap();
    state(&plugin, |s| *s == Registration::Registered).await;
    assert!(Driver::at(&plugin.paths().dra, Version::V1).prepare(&[]).await.is_ok());
    plugin.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_hides_from_the_kubelet_first_and_waits_for_work_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let work = Work::new();
    let plugin = start(dir.path(), &work).await;
    let driver = registered(dir.path()).await;
    let paths = plugin.paths().clone();
    let call = tokio::spawn(async move { driver.prepare(&[claim("u1", "slow")]).await });
    work.until_running(1).await;

    let ending = tokio::spawn(plugin.shutdown());
    let since = Instant::now();
    while paths.registration.exists() {
        assert!(since.elapsed() < SOON, "the registration socket was not removed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!ending.is_finished(), "the work under way was not waited for");
    assert!(
        Driver::at(&paths.dra, Version::V1).prepare(&[claim("u2", "vf")]).await.is_err(),
        "still accepting"
    );
    work.open();
    assert!(call.await.unwrap().expect("the running call gets its answer")["u1"].is_ok());
    assert!(ending.await.unwrap().is_empty());
    assert!(!paths.dra.exists());
    assert_eq!(work.lines(), ["prepare u1 begins", "prepare u1 ends"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_not_wait_for_ever_and_says_what_it_left() {
    let dir = tempfile::tempdir().unwrap();
    let work = Work::new();
    let config = Config { drain: Duration::from_millis(200), ..Config::new(DRIVER, dir.path()) };
    let plugin = Plugin::start(config, Arc::clone(&work)).await.expect("plugin starts");
    let driver = registered(dir.path()).await;
    let paths = plugin.paths().clone();
    let _call = tokio::spawn(async move { driver.prepare(&[claim("u1", "slow")]).await });
    work.until_running(1).await;
    let since = Instant::now();
    assert_eq!(plugin.shutdown().await, [claim("u1", "slow")]);
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert!(!paths.dra.exists() && !paths.registration.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_is_refused_without_a_pod_uid_and_lives_beside_with_one() {
    let dir = tempfile::tempdir().unwrap();
    let first = start(dir.path(), &Work::new()).await;
    let inode = |p: &Path| std::fs::symlink_metadata(p).unwrap().ino();
    let before = inode(&first.paths().dra);
    let again = Plugin::start(Config::new(DRIVER, dir.path()), Work::new()).await;
    assert!(matches!(again, Err(KubeletError::InUse { .. })), "{again:?}");
    assert_eq!(inode(&first.paths().dra), before);

    let uid = "7b0b0d9e-3f9d-4a7c-9b6c-0d6c4b1f2a3e";
    let config = Config { pod_uid: Some(uid.into()), ..Config::new(DRIVER, dir.path()) };
    let second = Plugin::start(config, Work::new()).await.expect("second instance");
    assert_ne!(second.paths(), first.paths());
    let kubelet = FakeKubelet::new(dir.path());
    assert_eq!(kubelet.registration_sockets().len(), 2);
    first.shutdown().await;
    assert_eq!(kubelet.registration_sockets(), [second.paths().registration.clone()]);
    let driver = kubelet.register(DRIVER, SOON).await.expect("the second is registered");
    assert!(driver.prepare(&[claim("u1", "vf")]).await.expect("prepare")["u1"].is_ok());
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_a_dead_instance_left_are_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["plugins/sriov-dra.io/dra.sock", "plugins_registry/sriov-dra.io@reg.sock"] {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    }
    let plugin = start(dir.path(), &Work::new()).await;
    assert!(registered(dir.path()).await.prepare(&[claim("u1", "vf")]).await.expect("prepare")["u1"].is_ok());
    plugin.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_at_the_limit_of_a_socket_path_still_register() {
    let dir = tempfile::tempdir().unwrap();
    let driver = format!("{}.io", "d".repeat(50));
    let uid = "7b0b0d9e-3f9d-4a7c-9b6c-0d6c4b1f2a3e";
    let config = Config { pod_uid: Some(uid.into()), ..Config::new(&driver, dir.path()) };
    let plugin = Plugin::start(config, Work::new()).await.expect("plugin starts");
    let found = FakeKubelet::new(dir.path()).register(&driver, SOON).await.expect("registers");
    assert!(found.prepare(&[claim("u1", "vf")]).await.expect("prepare")["u1"].is_ok());
    assert!(
        !plugin.paths().registration.display().to_string().contains(uid),
        "this test needs a shorter form"
    );
    plugin.shutdown().await;

    let deep = dir.path().join("x".repeat(100));
    let error =
        Plugin::start(Config::new(DRIVER, &deep), Work::new()).await.expect_err("too long").to_string();
    assert!(error.contains("a unix socket's path may have 107"), "{error}");
}
