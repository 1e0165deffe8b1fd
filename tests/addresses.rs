//! The controller of address blocks against the embedded API server: who ends up with which block, and what is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sriov_dra::address::{AddressBlock, AddressPool, Book, NoAddress, Parent};
use sriov_dra::controller;
use sriov_dra::controller::blocks::{Blocks, NodePf, Pfs, Settings};
use sriov_dra::demo::apiserver::ApiServer;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// "Within seconds", with room for a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// The controller of one node.
struct OnNode {
    name: String,
    pfs: watch::Sender<Option<Pfs>>,
    book: watch::Receiver<Arc<Book>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl OnNode {
    fn start(server: &ApiServer, name: &str, pfs: Vec<NodePf>, known: Book) -> Self {
        let settings = Settings {
            pace: controller::Settings {
                debounce: Duration::from_millis(20),
                backoff_min: Duration::from_millis(50),
                backoff_max: Duration::from_millis(500),
                call_timeout: Duration::from_secs(5),
                ..controller::Settings::default()
            },
            lost_after: Duration::from_secs(2),
            again: Duration::from_millis(500),
            spread: Duration::from_millis(100),
        };
        let blocks = Blocks::new(server.client().unwrap(), name, known).with_settings(settings);
        let book = blocks.book();
        let (pfs, seen) = watch::channel(Some(Pfs::new(pfs)));
        let stop = CancellationToken::new();
        let task = tokio::spawn(blocks.run(seen, stop.clone()));
        Self { name: name.to_owned(), pfs, book, stop, task }
    }

    fn new(server: &ApiServer, name: &str, pfs: Vec<NodePf>) -> Self {
        add_node(server, name, &[]);
        Self::start(server, name, pfs, Book::default())
    }

    /// The address of VF 0 of a PF, or why it has none.
    fn address(&self, pool: &str, function: u8) -> Result<String, NoAddress> {
        let pf = pf(function).parent;
        self.book.borrow().assign(pool, &pf, 0).map(|assigned| assigned.addresses[0].to_string())
    }

    async fn until_known(&self, pool: &str, function: u8) -> String {
        until(&format!("address on {}", self.name), || self.address(pool, function).ok()).await
    }

    async fn until_told(&self, pool: &str, function: u8, words: &str) {
        until(&format!("{words:?} on {}, last: {:?}", self.name, self.address(pool, function)), || {
            self.address(pool, function).err().filter(|error| error.to_string().contains(words))
        })
        .await;
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.task).await.expect("the controller ends").unwrap();
    }
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

async fn server() -> ApiServer {
    ApiServer::start("127.0.0.1:0").await.unwrap()
}

fn add_node(server: &ApiServer, name: &str, labels: &[(&str, &str)]) {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let metadata = ObjectMeta { name: Some(name.into()), labels: Some(labels), ..ObjectMeta::default() };
    server.store().create(&Node { metadata, ..Node::default() });
}

fn pf(function: u8) -> NodePf {
    let pci = format!("0000:3b:00.{function}").parse().unwrap();
    let parent = Parent { pci, name: Some(format!("eno3np{function}")), rail: None, addresses: Vec::new() };
    NodePf { parent, vfs: 8, busy: false }
}

fn with_address(mut pf: NodePf, address: &str) -> NodePf {
    pf.parent.addresses.push(address.parse().unwrap());
    pf
}

fn prefixes(cidr: &str, length: u8) -> Value {
    json!({"mode": "perNodePrefix", "ipv4": {"cidr": cidr, "prefixLength": length, "gatewayIndex": 1}})
}

async fn add_pool(server: &ApiServer, name: &str, spec: Value) {
    let api: Api<AddressPool> = Api::all(server.client().unwrap());
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    let pool = AddressPool {
        api_version: "sriov-dra.io/v1alpha1".into(),
        kind: "AddressPool".into(),
        metadata,
        spec,
        status: None,
    };
    api.create(&PostParams::default(), &pool).await.unwrap();
}

fn blocks(server: &ApiServer) -> Vec<AddressBlock> {
    server.store().list()
}

/// Status and reason of a pool's condition.
fn condition(server: &ApiServer, pool: &str, kind: &str) -> Option<(String, String, String)> {
    let pool: AddressPool = server.store().get("", pool)?;
    let found = pool.status?.conditions.into_iter().find(|condition| condition.type_ == kind)?;
    Some((found.status, found.reason, found.message))
}

async fn until_condition(server: &ApiServer, pool: &str, kind: &str, expected: (&str, &str)) -> String {
    let what = format!("{kind} {expected:?} of {pool}");
    let fits =
        |(status, reason, _): &(String, String, String)| (status.as_str(), reason.as_str()) == expected;
    until(&what, || condition(server, pool, kind).filter(fits)).await.2
}

fn writes(server: &ApiServer) -> Vec<String> {
    let all = server.faults().requests().into_iter().filter(|request| request.is_write());
    let ours = all.filter(|request| request.is_about("addressblocks") || request.is_about("addresspools"));
    ours.map(|request| format!("{} {}", request.method, request.path)).collect()
}

#[tokio::test]
async fn two_nodes_that_race_for_the_blocks_of_a_small_pool_get_one_for_each_pf_and_no_two_the_same() {
    let server = server().await;
    add_pool(&server, "rails", prefixes("10.0.0.0/24", 28)).await;
    let pfs: Vec<NodePf> = (0..8).map(pf).collect();
    let nodes = [OnNode::new(&server, "a", pfs.clone()), OnNode::new(&server, "b", pfs)];
    let mut given = BTreeSet::new();
    for node in &nodes {
        for function in 0..8 {
            given.insert(node.until_known("rails", function).await);
        }
    }
    assert_eq!(given.len(), 16, "all sixteen blocks are given out, each once: {given:?}");
    let indices: BTreeSet<u64> = blocks(&server).iter().map(|block| block.spec.index).collect();
    assert_eq!(indices, (0..16).collect());
    until_condition(&server, "rails", "Valid", ("True", "Valid")).await;
    for node in nodes {
        node.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_nodes_with_eight_pfs_settle_and_then_write_nothing_more() {
    let server = server().await;
    add_pool(&server, "rails", prefixes("172.16.0.0/16", 27)).await;
    let nodes: Vec<OnNode> =
        (0..50).map(|n| OnNode::new(&server, &format!("node-{n}"), (0..8).map(pf).collect())).collect();
    let started = Instant::now();
    let mut given = BTreeSet::new();
    for node in &nodes {
        for function in 0..8 {
            given.insert(node.until_known("rails", function).await);
        }
    }
    let settled = started.elapsed();
    assert_eq!((given.len(), blocks(&server).len()), (400, 400));
    let creates =
        writes(&server).iter().filter(|write| write.starts_with("POST") && write.ends_with("blocks")).count();
    println!("400 blocks on 50 nodes in {settled:?}, {} conflicts", creates - 400);
    assert!(creates < 480, "{creates} creates for 400 blocks");
    until_condition(&server, "rails", "Valid", ("True", "Valid")).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    server.faults().forget_requests();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(writes(&server), [""; 0], "after they have settled");
}

#[tokio::test]
async fn while_the_api_server_is_away_what_is_known_stands_and_what_is_not_is_claimed_when_it_is_back() {
    let first = server().await;
    let address: SocketAddr = first.address().unwrap();
    add_pool(&first, "rails", prefixes("172.16.0.0/16", 27)).await;
    let node = OnNode::new(&first, "a", vec![pf(0)]);
    let before = node.until_known("rails", 0).await;
    let store = first.stop().await;
    // Another PF appears, and the agent is started again with nothing but what it wrote down.
    node.pfs.send_replace(Some(Pfs::new(vec![pf(0), pf(1)])));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(node.address("rails", 0), Ok(before.clone()));
    assert!(node.address("rails", 1).is_err());
    let known: Book = serde_json::from_str(&serde_json::to_string(&**node.book.borrow()).unwrap()).unwrap();
    let second = ApiServer::start_with(address, store).await.unwrap();
    node.until_known("rails", 1).await;
    assert_eq!(node.address("rails", 0), Ok(before.clone()));
    node.end().await;
    let again = OnNode::start(&second, "a", vec![pf(0)], known);
    assert_eq!(again.address("rails", 0), Ok(before), "known before anything was asked");
    again.end().await;
}

#[tokio::test]
async fn a_pool_may_grow_but_what_would_move_addresses_is_refused_and_told_where_nobody_refused_it() {
    let server = server().await;
    add_pool(&server, "rails", prefixes("172.16.0.0/24", 28)).await;
    let node = OnNode::new(&server, "a", vec![pf(0)]);
    let before = node.until_known("rails", 0).await;
    let api: Api<AddressPool> = Api::all(server.client().unwrap());
    let change = |family: Value| {
        let patch = json!({"spec": {"ipv4": family}});
        let api = api.clone();
        async move { api.patch("rails", &PatchParams::default(), &Patch::Merge(&patch)).await }
    };
    change(json!({"cidr": "172.16.0.0/16"})).await.unwrap();
    until("growth", || {
        node.book.borrow().pools["rails"].spec["ipv4"]["cidr"]
            .as_str()
            .filter(|c| c.ends_with("/16"))
            .map(drop)
    })
    .await;
    assert_eq!(node.address("rails", 0), Ok(before));
    let refused = change(json!({"prefixLength": 29})).await.unwrap_err().to_string();
    assert!(refused.contains("prefixLength may not change"), "{refused}");

    // A server without the rules, or one whose CRD somebody changed.
    let mut pool: AddressPool = server.store().get("", "rails").unwrap();
    pool.spec["ipv4"]["prefixLength"] = json!(29);
    server.store().replace(&pool);
    let message = until_condition(&server, "rails", "Valid", ("False", "ChangeRefused")).await;
    assert!(message.contains("block rails.") && message.contains("/28 before mode"), "{message}");
    node.until_told("rails", 0, "put them back").await;
    node.pfs.send_replace(Some(Pfs::new(vec![pf(0), pf(1)])));
    node.until_told("rails", 1, "changed in a way that it must not be").await;
    assert_eq!(blocks(&server).len(), 1);
    node.end().await;
}

#[tokio::test]
async fn blocks_are_given_back_when_pool_or_selector_let_go_of_the_pf_but_not_while_a_claim_uses_it() {
    let server = server().await;
    let mut spec = prefixes("172.16.0.0/16", 27);
    spec["nodeSelector"] = json!({"rack": "r1"});
    spec["pfs"] = json!({"names": ["eno3np0"]});
    add_pool(&server, "rails", spec).await;
    add_node(&server, "a", &[("rack", "r1")]);
    add_node(&server, "b", &[("rack", "r2")]);
    let a = OnNode::start(&server, "a", vec![pf(0), pf(1)], Book::default());
    let b = OnNode::start(&server, "b", vec![pf(0)], Book::default());
    a.until_known("rails", 0).await;
    a.until_told("rails", 1, "does not select this PF or this node").await;
    b.until_told("rails", 0, "does not select this PF or this node").await;
    a.pfs.send_replace(Some(Pfs::new(vec![NodePf { busy: true, ..pf(0) }])));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let api: Api<AddressPool> = Api::all(server.client().unwrap());
    api.delete("rails", &DeleteParams::default()).await.unwrap();
    a.until_told("rails", 0, "knows no pool of that name").await;
    assert_eq!(blocks(&server).len(), 1, "its addresses are in use");
    a.pfs.send_replace(Some(Pfs::new(vec![pf(0)])));
    until("blocks given back", || blocks(&server).is_empty().then_some(())).await;
    a.end().await;
    b.end().await;
}

#[tokio::test]
async fn a_full_pool_is_told_and_the_blocks_of_a_node_that_stays_away_are_taken_and_those_of_one_that_comes_back_are_not()
 {
    let server = server().await;
    add_pool(&server, "small", prefixes("10.0.0.0/27", 28)).await;
    let old = OnNode::new(&server, "old", vec![pf(0)]);
    let there = OnNode::new(&server, "there", vec![pf(0)]);
    old.until_known("small", 0).await;
    there.until_known("small", 0).await;
    old.end().await;
    let late = OnNode::new(&server, "late", vec![pf(0)]);
    late.until_told("small", 0, "all blocks are taken").await;
    until_condition(&server, "small", "Full", ("True", "NoBlockLeft")).await;
    // The agent that has a block does not contradict: nothing is written any more.
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.faults().forget_requests();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let written =
        writes(&server).into_iter().filter(|write| write.contains("addresspools")).collect::<Vec<_>>();
    assert_eq!(written, [""; 0]);
    assert_eq!(condition(&server, "small", "Full").unwrap().0, "True");
    let events: Vec<Event> = until("event", || {
        let events: Vec<Event> = server.store().list();
        (!events.is_empty()).then_some(events)
    })
    .await;
    let note = events[0].note.clone().unwrap();
    assert!(note.starts_with("PF 0000:3b:00.0 of node late has no block of addresses: all blocks"), "{note}");

    // Both Nodes are gone; the agent of one of them lives and takes the mark away.
    server.store().delete::<Node>("", "old");
    late.until_told("small", 0, "those of old, whose Nodes are gone").await;
    let marked = blocks(&server).into_iter().filter(|block| block.status.is_some()).count();
    assert_eq!(marked, 1);
    let gone_at = Instant::now();
    late.until_known("small", 0).await;
    assert!(gone_at.elapsed() > Duration::from_secs(1), "taken after {:?}", gone_at.elapsed());
    let holders: BTreeMap<u64, String> =
        blocks(&server).into_iter().map(|block| (block.spec.index, block.spec.node_name)).collect();
    assert_eq!(
        holders.values().collect::<BTreeSet<_>>(),
        ["late".to_owned(), "there".to_owned()].iter().collect()
    );
    until_condition(&server, "small", "Full", ("False", "BlocksLeft")).await;
    there.end().await;
    late.end().await;
}

#[tokio::test]
async fn a_node_that_lives_takes_the_mark_from_its_block() {
    let server = server().await;
    add_pool(&server, "rails", prefixes("172.16.0.0/16", 27)).await;
    let node = OnNode::new(&server, "a", vec![pf(0)]);
    node.until_known("rails", 0).await;
    let name = blocks(&server)[0].metadata.name.clone().unwrap();
    let api: Api<AddressBlock> = Api::all(server.client().unwrap());
    let mark = json!({"status": {"nodeGoneSince": "2020-01-01T00:00:00Z"}});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&mark)).await.unwrap();
    let since = || blocks(&server)[0].status.as_ref().and_then(|status| status.node_gone_since.clone());
    until("block without mark", || since().is_none().then_some(())).await;
    node.end().await;
}

#[tokio::test]
async fn what_is_in_use_of_a_deleted_pool_is_not_given_out_by_one_that_takes_its_place() {
    // By other rules, under the same name and under another.
    for name in ["rails", "others"] {
        let server = server().await;
        add_pool(&server, "rails", prefixes("10.0.0.0/26", 27)).await;
        let a = OnNode::new(&server, "a", vec![NodePf { busy: true, ..pf(0) }]);
        a.until_known("rails", 0).await;
        let held = blocks(&server)[0].spec.clone();
        let api: Api<AddressPool> = Api::all(server.client().unwrap());
        api.delete("rails", &DeleteParams::default()).await.unwrap();
        a.until_told("rails", 0, "knows no pool of that name").await;
        a.end().await;
        add_pool(&server, name, prefixes("10.0.0.0/26", 28)).await;
        let b = OnNode::new(&server, "b", (0..4).map(pf).collect());
        // Four blocks, of which the one in use covers two, and may have the name of a third.
        let left = if name == "rails" && held.index == 1 { 1 } else { 2 };
        until("PFs without a block", || {
            let told = (0..4).filter_map(|function| b.address(name, function).err());
            let full = told.filter(|error| error.to_string().contains("all blocks are taken")).count();
            (full == 4 - left).then_some(())
        })
        .await;
        let others: Vec<_> = blocks(&server)
            .into_iter()
            .map(|block| block.spec)
            .filter(|block| block.node_name == "b")
            .collect();
        assert_eq!(others.len(), left);
        assert!(others.iter().all(|other| !other.overlaps(&held)), "{held:?} is in use: {others:?}");
        b.end().await;
    }
}

#[tokio::test]
async fn a_pool_that_overlaps_an_older_one_gives_nothing_and_both_say_so() {
    let server = server().await;
    add_pool(&server, "a-old", prefixes("172.16.0.0/24", 27)).await;
    let mut young = prefixes("172.16.0.128/25", 27);
    young["pfs"] = json!({"names": ["eno3np1"]});
    add_pool(&server, "b-young", young).await;
    let node = OnNode::new(&server, "a", vec![pf(0), pf(1)]);
    node.until_known("a-old", 0).await;
    node.until_known("a-old", 1).await;
    node.until_told("b-young", 1, "overlaps the older pool a-old").await;
    assert!(
        blocks(&server).iter().all(|block| block.spec.index < 4),
        "the older pool stays out of the younger's half"
    );
    let told = until_condition(&server, "b-young", "Valid", ("False", "Overlap")).await;
    assert!(told.contains("the older pool a-old in 172.16.0.128-172.16.0.255"), "{told}");
    until_condition(&server, "a-old", "Valid", ("False", "Overlap")).await;
    node.end().await;
}

#[tokio::test]
async fn a_pool_that_does_not_hold_together_says_why_and_hides_no_other() {
    let server = server().await;
    let mut bad = prefixes("10.0.0.0/24", 28);
    bad["ipv4"]["exclude"] = json!(["10.0.0.250-10.0.0.256"]);
    add_pool(&server, "bad", bad).await;
    add_pool(&server, "good", prefixes("172.16.0.0/16", 27)).await;
    let node = OnNode::new(&server, "a", vec![pf(0)]);
    node.until_known("good", 0).await;
    node.until_told("bad", 0, "256 is more than 255").await;
    let told = until_condition(&server, "bad", "Valid", ("False", "Invalid")).await;
    assert!(told.contains("AddressPool bad: spec.ipv4.exclude[0]"), "{told}");
    node.end().await;
}

#[tokio::test]
async fn a_prefix_that_two_pfs_have_is_given_to_one_of_them() {
    let server = server().await;
    let mut spec = prefixes("172.16.0.0/16", 27);
    spec["mode"] = json!("fromParent");
    add_pool(&server, "rails", spec).await;
    let a = OnNode::new(&server, "a", vec![with_address(pf(0), "172.16.1.34/27")]);
    let given = until("address", || {
        let pf = with_address(pf(0), "172.16.1.34/27").parent;
        a.book.borrow().assign("rails", &pf, 0).ok()
    })
    .await;
    assert_eq!(given.addresses[0].to_string(), "172.16.1.35/27");
    let b = OnNode::new(&server, "b", vec![with_address(pf(1), "172.16.1.40/27"), pf(2)]);
    b.until_told("rails", 1, "its prefix 172.16.1.32/27 is that of PF 0000:3b:00.0 of node a already").await;
    b.until_told("rails", 2, "the PF has no address of 172.16.0.0/16").await;
    assert_eq!(blocks(&server)[0].metadata.name.as_deref(), Some("rails.9"));
    // Its address changes: the block follows, but not under a claim's feet.
    a.pfs.send_replace(Some(Pfs::new(vec![NodePf { busy: true, ..with_address(pf(0), "172.16.2.2/27") }])));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(blocks(&server)[0].metadata.name.as_deref(), Some("rails.9"));
    a.pfs.send_replace(Some(Pfs::new(vec![with_address(pf(0), "172.16.2.2/27")])));
    until("block of the new prefix", || {
        let names: Vec<_> = blocks(&server).iter().filter_map(|block| block.metadata.name.clone()).collect();
        names.contains(&"rails.16".to_owned()).then_some(())
    })
    .await;
    a.end().await;
    b.end().await;
}
