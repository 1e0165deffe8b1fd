//! Conditions and events of pools: what people see of them.
//!
//! Every agent sees the same pools and comes to the same conditions, so any of them may write. A condition is applied
//! server-side, each by a manager of its own, and only while the server's differs; hence no conflicts and few writes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use serde_json::json;
use tracing::debug;

use super::plan::Verdict;
use crate::address::{AddressPool, GROUP, VERSION};
use crate::controller::Error;
use crate::device::PciAddress;

/// A condition that a pool should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `Valid`, `Full`
    pub kind: &'static str,
    /// `True`, `False`
    pub holds: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// `Valid` of a pool.
pub fn valid(verdict: &Option<Verdict>) -> Wanted {
    match verdict {
        None => Wanted {
            kind: "Valid",
            holds: true,
            reason: "Valid",
            message: "blocks are claimed from it".to_owned(),
        },
        Some(Verdict { reason, message }) => {
            Wanted { kind: "Valid", holds: false, reason, message: message.clone() }
        }
    }
}

/// `Full` of a pool.
pub fn full(why: Option<&str>) -> Wanted {
    let (holds, reason) = (why.is_some(), if why.is_some() { "NoBlockLeft" } else { "BlocksLeft" });
    let message = why.unwrap_or("a PF that had none got a block").to_owned();
    Wanted { kind: "Full", holds, reason, message }
}

/// The pool's condition differs. Words don't count: two versions of the agent may choose others.
pub fn differs(pool: &AddressPool, wanted: &Wanted) -> bool {
    let found = condition(pool, wanted.kind);
    // Nobody needs to be told that a pool is not full.
    let silent = wanted.kind == "Full" && !wanted.holds;
    found.map_or(!silent, |found| found.status != status(wanted) || found.reason != wanted.reason)
}

fn condition<'a>(pool: &'a AddressPool, kind: &str) -> Option<&'a Condition> {
    pool.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind)
}

fn status(wanted: &Wanted) -> &'static str {
    if wanted.holds { "True" } else { "False" }
}

/// Writes a condition.
///
/// # Errors
/// The API server's.
pub async fn tell(
    pools: &Api<AddressPool>,
    name: &str,
    pool: &AddressPool,
    wanted: &Wanted,
) -> Result<(), Error> {
    let condition = json!({
        "type": wanted.kind, "status": status(wanted), "reason": wanted.reason, "message": wanted.message,
        "lastTransitionTime": jiff::Timestamp::now().to_string(), "observedGeneration": pool.metadata.generation,
    });
    let body = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "AddressPool", "metadata": {"name": name},
        "status": {"conditions": [condition]},
    });
    let manager = format!("sriov-dra-{}", wanted.kind.to_lowercase());
    let params = PatchParams::apply(&manager).force();
    let written = pools.patch_status(name, &params, &Patch::Apply(&body)).await;
    written.map(drop).map_err(|source| Error::of_write("tell", "AddressPool", name, source))
}

/// Tells at the pools why PFs of this node have no block; each reason once.
#[derive(Debug, Default)]
pub struct Events {
    told: BTreeMap<(String, PciAddress), String>,
}

impl Events {
    /// `without` is all there is to tell now.
    pub async fn tell(
        &mut self,
        client: &kube::Client,
        node: &str,
        pools: &BTreeMap<String, AddressPool>,
        without: &BTreeMap<(String, PciAddress), String>,
    ) {
        self.told.retain(|key, _| without.contains_key(key));
        let news: Vec<_> = without.iter().filter(|(key, why)| self.told.get(*key) != Some(*why)).collect();
        if news.is_empty() {
            return;
        }
        let reporter =
            Reporter { controller: "sriov-dra.io/agent".to_owned(), instance: Some(node.to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        for ((name, pf), why) in news {
            let Some(pool) = pools.get(name) else { continue };
            let event = Event {
                type_: EventType::Warning,
                reason: "NoBlock".to_owned(),
                note: Some(format!("PF {pf} of node {node} has no block of addresses: {why}")),
                action: "ClaimBlock".to_owned(),
                secondary: None,
            };
            // People are told elsewhere too: in the agent's log, and in the events of a pod that needs the address.
            if let Err(error) = recorder.publish(&event, &pool.object_ref(&())).await {
                debug!(pool = name, %error, "event not written");
            }
            self.told.insert((name.clone(), *pf), why.clone());
        }
    }
}
