//! The ResourceSlice controller against the embedded API server: what ends up published, and what is written for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;
use sriov_dra::controller::{Controller, Offer, Published, Settings};
use sriov_dra::demo::apiserver::{ApiServer, Fault};
use sriov_dra::device::PciAddress;
use sriov_dra::policy::{AttributeValue, OfferedDevice};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const DRIVER: &str = "sriov-dra.io";
const NODE: &str = "node-1";
/// "Within seconds", with room for a busy machine.
const SOON: Duration = Duration::from_secs(10);

struct Bench {
    server: ApiServer,
    offers: watch::Sender<Offer>,
    published: watch::Receiver<Published>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Bench {
    /// A server with the Node, and a controller that offers `devices`.
    async fn new(devices: Vec<OfferedDevice>) -> Self {
        Self::on(server_with_node().await, devices)
    }

    fn on(server: ApiServer, devices: Vec<OfferedDevice>) -> Self {
        let settings = Settings {
            debounce: Duration::from_millis(50),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(1),
            ..Settings::default()
        };
        let controller = Controller::new(server.client().unwrap(), DRIVER, NODE).with_settings(settings);
        let published = controller.published();
        let (offers, offered) = watch::channel(Offer::new(devices));
        let stop = CancellationToken::new();
        let task = tokio::spawn(controller.run(offered, stop.clone()));
        Self { server, offers, published, stop, task }
    }

    fn slices(&self) -> Vec<ResourceSlice> {
        self.server.store().list()
    }

    fn api(&self) -> Api<ResourceSlice> {
        Api::all(self.server.client().unwrap())
    }

    /// Somebody removes a slice.
    fn lose(&self, slice: &ResourceSlice) {
        assert!(self.server.store().delete::<ResourceSlice>("", slice.metadata.name.as_deref().unwrap()));
    }

    /// Waits for a complete pool with these devices in this order; returns its slices.
    async fn until_published(&self, devices: &[OfferedDevice]) -> Vec<ResourceSlice> {
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        let what = format!("complete pool of {} devices", names.len());
        until(&what, || {
            let slices = self.slices();
            is_complete(&slices, &names).then_some(slices)
        })
        .await
    }

    async fn until_told(&self, what: impl Fn(&Published) -> bool) -> Published {
        let mut published = self.published.clone();
        let told = tokio::time::timeout(SOON, published.wait_for(what)).await;
        told.expect("the controller tells so").unwrap().clone()
    }

    /// Nothing is written for a while that is long for the controller.
    async fn is_quiet(&self) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.server.faults().forget_requests();
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(self.server.faults().writes("resourceslices"), []);
    }
}

async fn server_with_node() -> ApiServer {
    let server = ApiServer::start("127.0.0.1:0").await.unwrap();
    server.store().create(&node("uid-1")).unwrap();
    server
}

async fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(start.elapsed() < SOON, "no {what} within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn node(uid: &str) -> Node {
    let metadata = ObjectMeta { name: Some(NODE.into()), uid: Some(uid.into()), ..ObjectMeta::default() };
    Node { metadata, ..Node::default() }
}

/// As a scheduler judges it: one generation, as many slices as they say, and the devices in the order of the names.
fn is_complete(slices: &[ResourceSlice], names: &[&str]) -> bool {
    let devices: Vec<&str> =
        slices.iter().flat_map(|s| s.spec.devices.iter().flatten()).map(|d| d.name.as_str()).collect();
    let generation = slices.first().map(|slice| slice.spec.pool.generation);
    let fits = |slice: &ResourceSlice| {
        Some(slice.spec.pool.generation) == generation
            && slice.spec.pool.resource_slice_count == slices.len() as i64
    };
    !slices.is_empty() && devices == names && slices.iter().all(fits)
}

fn devices(count: usize) -> Vec<OfferedDevice> {
    (0..count).map(|index| device(index, 0)).collect()
}

fn device(index: usize, mtu: i64) -> OfferedDevice {
    let pci = PciAddress {
        domain: 0,
        bus: u8::try_from(index / 256).unwrap(),
        device: u8::try_from(index / 8 % 32).unwrap(),
        function: u8::try_from(index % 8).unwrap(),
    };
    let attributes = [
        ("sriov-dra.io/pciAddress".to_owned(), AttributeValue::String(pci.to_string())),
        ("sriov-dra.io/mtu".to_owned(), AttributeValue::Int(mtu)),
        ("sriov-dra.io/rdma".to_owned(), AttributeValue::Bool(true)),
    ];
    OfferedDevice { name: pci.device_name(), pci, attributes: attributes.into() }
}

fn generation(slices: &[ResourceSlice]) -> i64 {
    slices[0].spec.pool.generation
}

fn names(slices: &[ResourceSlice]) -> Vec<String> {
    slices.iter().map(|slice| slice.metadata.name.clone().unwrap()).collect()
}

fn mtu(slice: &ResourceSlice, device: usize) -> Option<i64> {
    slice.spec.devices.as_ref()?.get(device)?.attributes.as_ref()?.get("sriov-dra.io/mtu")?.int
}

#[tokio::test]
async fn pools_of_every_size_are_split_as_the_api_wants_and_then_left_alone() {
    for (count, expected) in [(0, 1), (1, 1), (128, 1), (129, 2), (1016, 8)] {
        let bench = Bench::new(devices(count)).await;
        let slices = bench.until_published(&devices(count)).await;
        assert_eq!(slices.len(), expected, "slices for {count} devices");
        assert_eq!(generation(&slices), 1);
        for (index, slice) in slices.iter().enumerate() {
            let name = slice.metadata.name.as_deref().unwrap();
            assert!(name.starts_with(&format!("{index:05x}-sriov-dra.io-node-1-")), "{name}");
            assert_eq!(slice.spec.driver, DRIVER);
            assert_eq!(slice.spec.node_name.as_deref(), Some(NODE));
            assert_eq!(slice.spec.pool.name, NODE);
            let owners = slice.metadata.owner_references.as_deref().unwrap();
            assert_eq!(owners.len(), 1);
            assert_eq!((owners[0].kind.as_str(), owners[0].uid.as_str()), ("Node", "uid-1"));
            assert_eq!(owners[0].controller, Some(true));
        }
        let told = bench.until_told(|published| published.in_sync).await;
        assert_eq!((told.generation, told.slices, told.devices), (1, expected, count));
        assert_eq!(
            bench.server.faults().writes("resourceslices").len(),
            expected,
            "one write for each slice"
        );
        bench.is_quiet().await;
        bench.stop.cancel();
        tokio::time::timeout(SOON, bench.task).await.expect("the controller stops").unwrap();
    }
}

#[tokio::test]
async fn one_changed_device_rewrites_one_slice_at_the_same_generation() {
    let bench = Bench::new(devices(1016)).await;
    let before = bench.until_published(&devices(1016)).await;
    bench.is_quiet().await;
    let mut offer = devices(1016);
    offer[300] = device(300, 9000);
    bench.offers.send_replace(Offer::new(offer));
    let changed = until("changed slice", || {
        let slices = bench.slices();
        (slices != before).then_some(slices)
    })
    .await;
    let differing: Vec<usize> = (0..8).filter(|index| changed[*index] != before[*index]).collect();
    assert_eq!(differing, [2]);
    assert_eq!((generation(&changed), names(&changed)), (1, names(&before)));
    assert_eq!(mtu(&changed[2], 44), Some(9000));
    assert_eq!(bench.server.faults().writes("resourceslices").len(), 1);
    bench.is_quiet().await;
}

#[tokio::test]
async fn a_withheld_device_and_its_return_rewrite_one_slice_each() {
    let bench = Bench::new(devices(1016)).await;
    bench.until_published(&devices(1016)).await;
    bench.is_quiet().await;
    let mut offer = devices(1016);
    offer.remove(10);
    bench.offers.send_replace(Offer::new(offer.clone()));
    let slices = bench.until_published(&offer).await;
    assert_eq!((slices.len(), generation(&slices)), (8, 1));
    bench.offers.send_replace(Offer::new(devices(1016)));
    let slices = bench.until_published(&devices(1016)).await;
    assert_eq!((slices.len(), generation(&slices)), (8, 1));
    assert_eq!(bench.server.faults().writes("resourceslices").len(), 2);
}

#[tokio::test]
async fn growing_past_128_devices_makes_a_new_generation_and_shrinking_removes_the_surplus() {
    let bench = Bench::new(devices(128)).await;
    bench.until_published(&devices(128)).await;
    bench.offers.send_replace(Offer::new(devices(129)));
    let slices = bench.until_published(&devices(129)).await;
    assert_eq!((slices.len(), generation(&slices)), (2, 2));
    bench.offers.send_replace(Offer::new(devices(5)));
    let slices = bench.until_published(&devices(5)).await;
    assert_eq!((slices.len(), generation(&slices)), (1, 3));
    bench.offers.send_replace(Offer::default());
    let slices = bench.until_published(&[]).await;
    assert_eq!((slices.len(), generation(&slices)), (1, 3));
    bench.is_quiet().await;
}

#[tokio::test]
async fn a_deleted_slice_comes_back() {
    let bench = Bench::new(devices(300)).await;
    let before = bench.until_published(&devices(300)).await;
    bench.api().delete(&names(&before)[1], &DeleteParams::default()).await.unwrap();
    let start = Instant::now();
    let slices = bench.until_published(&devices(300)).await;
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
    assert_eq!((slices.len(), generation(&slices)), (3, 2));
    bench.is_quiet().await;
}

#[tokio::test]
async fn the_kubelets_wipe_is_undone_in_one_round() {
    let bench = Bench::new(devices(300)).await;
    bench.until_published(&devices(300)).await;
    bench.is_quiet().await;
    let mine = ListParams::default().fields("spec.driver=sriov-dra.io,spec.nodeName=node-1");
    bench.api().delete_collection(&DeleteParams::default(), &mine).await.unwrap();
    let start = Instant::now();
    let slices = bench.until_published(&devices(300)).await;
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
    assert_eq!((slices.len(), generation(&slices)), (3, 1), "a wiped pool starts at generation 1");
    let writes = bench.server.faults().writes("resourceslices");
    assert_eq!(writes.iter().filter(|request| request.method == "POST").count(), 3);
    assert_eq!(writes.len(), 4, "the wipe and three creates");
    bench.is_quiet().await;
}

#[tokio::test]
async fn an_edited_slice_is_put_back_and_its_labels_stay() {
    let bench = Bench::new(devices(3)).await;
    let before = bench.until_published(&devices(3)).await;
    let mut edited = before[0].clone();
    edited.spec.devices.as_mut().unwrap().truncate(1);
    edited.metadata.labels = Some([("team".to_owned(), "a".to_owned())].into());
    bench.api().replace(&names(&before)[0], &Default::default(), &edited).await.unwrap();
    let after = bench.until_published(&devices(3)).await;
    assert_eq!(after[0].spec, before[0].spec);
    assert_eq!(after[0].metadata.labels, edited.metadata.labels);

    // An edit of the pool: the generation never goes back.
    let mut edited = after[0].clone();
    edited.spec.pool.generation = 7;
    edited.spec.pool.resource_slice_count = 5;
    bench.api().replace(&names(&before)[0], &Default::default(), &edited).await.unwrap();
    let after = bench.until_published(&devices(3)).await;
    assert_eq!((after.len(), generation(&after)), (1, 8));
    bench.is_quiet().await;
}

#[tokio::test]
async fn slices_with_foreign_names_or_a_second_one_for_an_index_are_removed() {
    let bench = Bench::new(devices(3)).await;
    let before = bench.until_published(&devices(3)).await;
    for name in ["junk", "00000-zzz", "00007-surplus"] {
        let mut slice = before[0].clone();
        slice.metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        bench.api().create(&Default::default(), &slice).await.unwrap();
    }
    let after = until("removal of the junk", || {
        let slices = bench.slices();
        (slices.len() == 1).then_some(slices)
    })
    .await;
    assert_eq!(after, before);
    bench.is_quiet().await;
}

#[tokio::test]
async fn slices_of_another_driver_or_node_are_never_touched() {
    let server = server_with_node().await;
    let foreign = [("other.example", NODE), (DRIVER, "node-2")].map(|(driver, node)| {
        let slice: ResourceSlice = serde_json::from_value(json!({
            "metadata": {"name": format!("00000-{driver}-{node}-x")},
            "spec": {
                "driver": driver, "nodeName": node,
                "pool": {"name": node, "generation": 9, "resourceSliceCount": 4},
                "devices": [{"name": "a"}],
            },
        }))
        .unwrap();
        server.store().create(&slice).unwrap()
    });
    let bench = Bench::on(server, devices(200));
    until("own slices", || (bench.slices().len() == 4).then_some(())).await;
    bench.offers.send_replace(Offer::default());
    until("empty slice", || (bench.slices().len() == 3).then_some(())).await;
    bench.is_quiet().await;
    for slice in foreign {
        let name = slice.metadata.name.as_deref().unwrap();
        assert_eq!(bench.server.store().get::<ResourceSlice>("", name), Some(slice.clone()));
    }
}

#[tokio::test]
async fn an_agent_that_restarts_writes_nothing() {
    let bench = Bench::new(devices(300)).await;
    let before = bench.until_published(&devices(300)).await;
    bench.stop.cancel();
    bench.task.await.unwrap();
    bench.server.faults().forget_requests();
    let again = Bench::on(bench.server, devices(300));
    let told = again.until_told(|published| published.in_sync).await;
    assert_eq!((told.generation, told.slices, told.devices), (1, 3, 300));
    assert_eq!(again.server.faults().writes("resourceslices"), []);
    assert_eq!(again.slices(), before);
}

#[tokio::test]
async fn two_agents_beside_each_other_come_to_one_pool() {
    let first = Bench::new(devices(300)).await;
    let controller = Controller::new(first.server.client().unwrap(), DRIVER, NODE);
    let (_offers, offered) = watch::channel(Offer::new(devices(300)));
    let second = tokio::spawn(controller.run(offered, first.stop.clone()));
    for slice in first.until_published(&devices(300)).await {
        first.server.store().delete::<ResourceSlice>("", slice.metadata.name.as_deref().unwrap());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    first.until_published(&devices(300)).await;
    first.is_quiet().await;
    first.stop.cancel();
    second.await.unwrap();
}

#[tokio::test]
async fn an_outage_of_the_server_is_survived_and_what_changed_in_it_is_published() {
    let bench = Bench::new(devices(3)).await;
    bench.until_published(&devices(3)).await;
    let Bench { server, offers, published, stop, task } = bench;
    let address = server.address().unwrap();
    let store = server.stop().await;
    offers.send_replace(Offer::new(devices(200)));
    published.clone().wait_for(|published| published.last_error.is_some()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!task.is_finished(), "the controller lives on");
    // While the server was away, somebody removed everything, and the server forgot that it happened.
    for slice in store.list::<ResourceSlice>() {
        store.delete::<ResourceSlice>("", slice.metadata.name.as_deref().unwrap());
    }
    store.compact();
    let server = ApiServer::start_with(address, store).await.unwrap();
    let bench = Bench { server, offers, published, stop, task };
    bench.until_published(&devices(200)).await;
    bench.until_told(|published| published.last_error.is_none() && published.in_sync).await;
}

#[tokio::test]
async fn a_conflict_is_tried_again_with_the_newer_slice() {
    let bench = Bench::new(devices(3)).await;
    bench.until_published(&devices(3)).await;
    bench.server.faults().next(2, |request| request.method == "PUT", Fault::Status(409));
    bench.offers.send_replace(Offer::new(devices(4)));
    let slices = bench.until_published(&devices(4)).await;
    assert_eq!(generation(&slices), 1);
    let told = bench.until_told(|published| published.in_sync && published.devices == 4).await;
    assert_eq!(told.last_error, None);
}

#[tokio::test]
async fn a_rejected_slice_names_the_field_and_the_others_are_published() {
    let bench = Bench::new(devices(200)).await;
    bench.until_published(&devices(200)).await;
    let mut offer = devices(200);
    offer[150].attributes.insert("sriov-dra.io/firmware".into(), AttributeValue::Version("22.41".into()));
    offer[1] = device(1, 9000);
    bench.offers.send_replace(Offer::new(offer));
    let told = bench.until_told(|published| published.last_error.is_some()).await;
    let error = told.last_error.unwrap();
    assert!(!told.in_sync);
    assert!(error.contains("spec.devices[22].attributes[sriov-dra.io/firmware].version"), "{error}");
    assert!(error.contains("22.41"), "{error}");
    assert_eq!(mtu(&bench.slices()[0], 1), Some(9000));
    bench.offers.send_replace(Offer::new(devices(200)));
    bench.until_published(&devices(200)).await;
    bench.until_told(|published| published.in_sync && published.last_error.is_none()).await;
}

#[tokio::test]
async fn a_rewrite_that_failed_midway_is_finished_without_a_further_generation() {
    let bench = Bench::new(devices(300)).await;
    let before = bench.until_published(&devices(300)).await;
    let unlucky = names(&before)[1].clone();
    let hit = move |request: &sriov_dra::demo::apiserver::Logged| {
        request.method == "PUT" && request.path.ends_with(&unlucky)
    };
    bench.server.faults().next(1, hit, Fault::Status(503));
    bench.server.faults().forget_requests();
    bench.offers.send_replace(Offer::new((0..300).map(|index| device(index, 1500)).collect()));
    bench.until_told(|published| published.in_sync && published.generation == 2).await;
    let slices = bench.until_published(&devices(300)).await;
    assert_eq!((names(&slices), generation(&slices)), (names(&before), 2));
    assert_eq!(mtu(&slices[1], 0), Some(1500));
    assert_eq!(bench.server.faults().writes("resourceslices").len(), 4, "three slices, one of them twice");
}

#[tokio::test]
async fn a_create_whose_answer_is_lost_makes_no_second_slice() {
    let server = server_with_node().await;
    server.faults().next(1, |r| r.method == "POST" && r.is_about("resourceslices"), Fault::DropAnswer);
    let bench = Bench::on(server, devices(3));
    bench.until_published(&devices(3)).await;
    bench.until_told(|published| published.in_sync).await;
    bench.is_quiet().await;
    assert_eq!(bench.slices().len(), 1);
}

#[tokio::test]
async fn fields_that_the_server_drops_are_given_up_until_the_offer_changes() {
    let server = server_with_node().await;
    server.faults().webhook(|_, object| {
        for device in object["spec"]["devices"].as_array_mut().into_iter().flatten() {
            if let Some(attributes) = device["attributes"].as_object_mut() {
                attributes.remove("sriov-dra.io/rdma");
            }
        }
    });
    let bench = Bench::on(server, devices(3));
    bench.until_published(&devices(3)).await;
    bench.until_told(|published| published.in_sync).await;
    assert_eq!(bench.server.faults().writes("resourceslices").len(), 1);
    bench.is_quiet().await;
    // A slice that is deleted comes back in the form that the server keeps, without a loop.
    bench.lose(&bench.slices()[0]);
    bench.until_published(&devices(3)).await;
    bench.is_quiet().await;
    // The gate is on again; the next offer brings the field back.
    bench.server.faults().clear();
    let mut offer = devices(3);
    offer[0] = device(0, 9000);
    bench.offers.send_replace(Offer::new(offer));
    until("field", || {
        let slices = bench.slices();
        let has_it = |d: &k8s_openapi::api::resource::v1::Device| {
            d.attributes.as_ref().is_some_and(|attributes| attributes.contains_key("sriov-dra.io/rdma"))
        };
        slices[0].spec.devices.iter().flatten().all(has_it).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_missing_is_waited_for_and_one_that_was_recreated_becomes_the_owner() {
    let bench = Bench::on(ApiServer::start("127.0.0.1:0").await.unwrap(), devices(3));
    let told = bench.until_told(|published| published.last_error.is_some()).await;
    assert_eq!(told.last_error.as_deref(), Some("read Node node-1: nodes \"node-1\" not found"));
    assert_eq!(bench.slices(), []);
    bench.server.store().create(&node("uid-1")).unwrap();
    let slices = bench.until_published(&devices(3)).await;

    // The Node goes and comes back, the garbage collector takes what belonged to the first one.
    bench.server.store().delete::<Node>("", NODE);
    bench.server.store().create(&node("uid-2")).unwrap();
    bench.lose(&slices[0]);
    let slices = bench.until_published(&devices(3)).await;
    assert_eq!(slices[0].metadata.owner_references.as_ref().unwrap()[0].uid, "uid-2");
}

#[tokio::test]
async fn an_unchanged_offer_writes_nothing_and_healing_outlives_the_channel() {
    let bench = Bench::new(devices(3)).await;
    bench.until_published(&devices(3)).await;
    bench.offers.send_replace(Offer::new(devices(3)));
    bench.is_quiet().await;
    let Bench { server, offers, published, stop, task } = bench;
    drop(offers);
    let (offers, _) = watch::channel(Offer::default());
    let bench = Bench { server, offers, published, stop, task };
    bench.lose(&bench.slices()[0]);
    bench.until_published(&devices(3)).await;
}

#[tokio::test]
async fn errors_of_the_server_are_told_in_its_own_words() {
    let server = server_with_node().await;
    let forbidden = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Forbidden", "code": 403,
        "message": "resourceslices.resource.k8s.io is forbidden: User \"x\" cannot list resource",
    });
    server.faults().next(2, |r| r.is_about("resourceslices"), Fault::Answer(403, forbidden));
    let bench = Bench::on(server, devices(3));
    let told = bench.until_told(|published| published.last_error.is_some()).await;
    assert_eq!(
        told.last_error.as_deref(),
        Some(
            "watch ResourceSlices of driver sriov-dra.io on node node-1: list: resourceslices.resource.k8s.io is \
             forbidden: User \"x\" cannot list resource"
        )
    );
    assert!(!told.in_sync);
    bench.until_published(&devices(3)).await;
    bench.until_told(|published| published.in_sync && published.last_error.is_none()).await;
}
