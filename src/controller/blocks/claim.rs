//! Finding a free block, and taking over those of nodes that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use tracing::{info, warn};

use super::plan::{Want, next_free};
use crate::address::{AddressBlock, Block, Mode};
use crate::controller::Error;

/// Tries within one round; the next round goes on.
const TRIES: usize = 16;

/// The API server's blocks, for one node.
#[derive(Debug, Clone)]
pub struct Server {
    /// Blocks.
    pub blocks: Api<AddressBlock>,
    /// Nodes.
    pub nodes: Api<Node>,
    /// This node.
    pub node: String,
    /// Budget of one call.
    pub call_timeout: Duration,
    /// How long a Node must have been gone.
    pub lost_after: Duration,
}

/// Nodes that are asked for when a pool is full, in one round.
const LOOKED_FOR: usize = 16;

/// How a claim ended.
#[derive(Debug)]
pub enum Claimed {
    /// The block is this node's.
    Block(Box<AddressBlock>),
    /// There is none: who has them all.
    Full(String),
    /// The one block that would do is somebody else's.
    Taken(String),
}

impl Server {
    /// Claims a block.
    ///
    /// # Errors
    /// The API server's; another round tries again.
    pub async fn claim(&self, want: &Want) -> Result<Claimed, Error> {
        if want.pool.mode == Mode::FromParent {
            return self.claim_parents(want).await;
        }
        let mut taken = BTreeSet::new();
        let mut others = None;
        for _ in 0..TRIES {
            let Some(block) = next_free(want, &self.node, &taken) else {
                // Without a single conflict nothing was asked yet: the pool has no usable block at all.
                let others = match others {
                    Some(others) => others,
                    None => self.others(want).await?,
                };
                return self.take_over(want, &others).await;
            };
            let index = block.index;
            if let Some(created) = self.create(block).await? {
                return Ok(Claimed::Block(created));
            }
            let all = self.others(want).await?;
            // The answer to an earlier try was lost, or the agent beside this one was faster.
            if let Some(mine) = all.values().find(|other| self.is_mine(want, &other.spec)) {
                return Ok(Claimed::Block(Box::new(mine.clone())));
            }
            taken.insert(index);
            taken.extend(all.values().map(|other| other.spec.index));
            others = Some(all);
        }
        Err(Error::Overtaken { verb: "create", kind: "AddressBlock", name: format!("{}.*", want.pool.name) })
    }

    async fn claim_parents(&self, want: &Want) -> Result<Claimed, Error> {
        let block = match want.pool.parents_block(&self.node, &want.pf) {
            Ok(block) => block,
            Err(why) => return Ok(Claimed::Taken(why)),
        };
        let (name, cidr) = (block.name(), block.cidrs.first().map(ToString::to_string).unwrap_or_default());
        if let Some(created) = self.create(block).await? {
            return Ok(Claimed::Block(created));
        }
        let found = self.timed(&format!("read AddressBlock {name}"), self.blocks.get_opt(&name)).await?;
        match found.map_err(|source| Error::of_write("read", "AddressBlock", &name, source))? {
            Some(other) if self.is_mine(want, &other.spec) => Ok(Claimed::Block(Box::new(other))),
            Some(other) => Ok(Claimed::Taken(format!(
                "its prefix {cidr} is that of PF {} of node {} already (AddressBlock {name})",
                other.spec.pf_pci_address, other.spec.node_name
            ))),
            None => Err(Error::Overtaken { verb: "create", kind: "AddressBlock", name }),
        }
    }

    fn is_mine(&self, want: &Want, block: &Block) -> bool {
        block.node_name == self.node && block.pf_pci_address == want.pf.pci && block.pool_uid == want.pool.uid
    }

    /// `None`: the name is taken.
    async fn create(&self, block: Block) -> Result<Option<Box<AddressBlock>>, Error> {
        let name = block.name();
        let (object, params) = (AddressBlock::new(block), PostParams::default());
        let answer =
            self.timed(&format!("create AddressBlock {name}"), self.blocks.create(&params, &object)).await?;
        match answer {
            Ok(created) => {
                let cidrs: Vec<String> = created.spec.cidrs.iter().map(ToString::to_string).collect();
                info!(block = name, pf = %created.spec.pf_pci_address, cidrs = cidrs.join(" "), "block of addresses claimed");
                Ok(Some(Box::new(created)))
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(source) => Err(Error::of_write("create", "AddressBlock", &name, source)),
        }
    }

    /// Deletes a block as it was seen; one that is not there any more is no error.
    ///
    /// # Errors
    /// The API server's.
    pub async fn delete(
        &self,
        name: &str,
        uid: Option<String>,
        version: Option<String>,
    ) -> Result<(), Error> {
        let preconditions = Preconditions { uid, resource_version: version };
        let params = DeleteParams::default().preconditions(preconditions);
        match self.timed(&format!("delete AddressBlock {name}"), self.blocks.delete(name, &params)).await? {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(source) => Err(Error::of_write("delete", "AddressBlock", name, source)),
        }
    }

    /// Notes that the block's Node is gone, or takes the note away.
    ///
    /// # Errors
    /// The API server's.
    pub async fn mark(&self, name: &str, since: Option<Timestamp>) -> Result<(), Error> {
        let patch = json!({"status": {"nodeGoneSince": since.map(|since| since.to_string())}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let what = format!("mark AddressBlock {name}");
        match self.timed(&what, self.blocks.patch_status(name, &params, &patch)).await? {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(source) => Err(Error::of_write("mark", "AddressBlock", name, source)),
        }
    }

    async fn others(&self, want: &Want) -> Result<BTreeMap<String, AddressBlock>, Error> {
        let what = format!("list AddressBlocks of {}", want.pool.name);
        let params = ListParams::default().fields(&format!("spec.pool={}", want.pool.name));
        let list = self.timed(&what, self.blocks.list(&params)).await?;
        let list = list.map_err(|source| Error::of_write("list", "AddressBlock", &want.pool.name, source))?;
        Ok(list
            .items
            .into_iter()
            .map(|block| (block.metadata.name.clone().unwrap_or_default(), block))
            .collect())
    }

    /// The pool is full. Blocks of nodes that are gone are marked; one that has been marked long enough is taken.
    async fn take_over(
        &self,
        want: &Want,
        others: &BTreeMap<String, AddressBlock>,
    ) -> Result<Claimed, Error> {
        let now = Timestamp::now();
        let mut gone: BTreeSet<&str> = BTreeSet::new();
        let nodes = self.look_for_nodes(others, now).await?;
        for (name, other) in others {
            let Some(there) = nodes.get(other.spec.node_name.as_str()).copied() else { continue };
            let since =
                other.status.as_ref().and_then(|status| status.node_gone_since.as_ref()).map(|time| time.0);
            match (there, since) {
                (true, None) => {}
                (true, Some(_)) => self.mark(name, None).await?,
                (false, None) => {
                    warn!(
                        block = name,
                        node = other.spec.node_name,
                        "a block of addresses is held by a node that is gone"
                    );
                    self.mark(name, Some(now)).await?;
                    gone.insert(&other.spec.node_name);
                }
                (false, Some(since)) if now.duration_since(since).unsigned_abs() >= self.lost_after => {
                    let metadata = &other.metadata;
                    self.delete(name, metadata.uid.clone(), metadata.resource_version.clone()).await?;
                    warn!(block = name, node = other.spec.node_name, %since, "a block of addresses is taken from a node that is gone");
                    let mut taken: BTreeSet<u64> = others.values().map(|other| other.spec.index).collect();
                    taken.remove(&other.spec.index);
                    let free = next_free(want, &self.node, &taken);
                    match free {
                        Some(block) => {
                            if let Some(created) = self.create(block).await? {
                                return Ok(Claimed::Block(created));
                            }
                        }
                        None => continue,
                    }
                }
                (false, Some(_)) => {
                    gone.insert(&other.spec.node_name);
                }
            }
        }
        let mut message = format!("all blocks are taken, {} of them by other PFs", others.len());
        if others.is_empty() {
            message = "no block has an address that may be given out".to_owned();
        }
        if !gone.is_empty() {
            let gone = gone.into_iter().collect::<Vec<_>>().join(", ");
            let hours = self.lost_after.as_secs() / 3600;
            message.push_str(&format!(
                "; those of {gone}, whose Nodes are gone, become free {hours} h after that was noticed"
            ));
        }
        Ok(Claimed::Full(message))
    }

    /// Which of the blocks' Nodes are there. They are asked for one by one, as an agent may not list all Nodes: those that
    /// were missed before, and some others in turn.
    async fn look_for_nodes<'a>(
        &self,
        others: &'a BTreeMap<String, AddressBlock>,
        now: Timestamp,
    ) -> Result<BTreeMap<&'a str, bool>, Error> {
        let is_marked =
            |block: &AddressBlock| block.status.as_ref().is_some_and(|s| s.node_gone_since.is_some());
        let names = |which: bool| -> BTreeSet<&'a str> {
            others.values().filter(|b| is_marked(b) == which).map(|b| b.spec.node_name.as_str()).collect()
        };
        let (marked, rest) = (names(true), names(false));
        let rest: Vec<&str> = rest.difference(&marked).copied().collect();
        let turn =
            usize::try_from(now.as_second() / 60).unwrap_or(0).wrapping_mul(LOOKED_FOR) % rest.len().max(1);
        let in_turn = rest.iter().cycle().skip(turn).take(LOOKED_FOR.min(rest.len()));
        let mut found = BTreeMap::new();
        for name in marked.iter().take(LOOKED_FOR).chain(in_turn).copied().filter(|name| *name != self.node) {
            let answer = self.timed(&format!("read Node {name}"), self.nodes.get_metadata_opt(name)).await?;
            let node =
                answer.map_err(|source| Error::Node { node: name.to_owned(), source: Box::new(source) })?;
            found.insert(name, node.is_some());
        }
        Ok(found)
    }

    /// A call within its budget.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn timed<T>(&self, what: &str, call: impl Future<Output = T>) -> Result<T, Error> {
        let answer = tokio::time::timeout(self.call_timeout, call).await;
        answer.map_err(|_| Error::Timeout { what: what.to_owned(), seconds: self.call_timeout.as_secs() })
    }
}
