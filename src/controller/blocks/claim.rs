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

/// Blocks by name.
pub type Seen = BTreeMap<String, AddressBlock>;

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
    /// Claims a block. `all` is what this round has seen of the blocks of all pools; what it finds out is added.
    ///
    /// # Errors
    /// The API server's; another round tries again.
    pub async fn claim(&self, want: &Want, all: &mut Option<Seen>) -> Result<Claimed, Error> {
        for _ in 0..TRIES {
            let seen = match all {
                Some(seen) => seen,
                None => all.insert(self.list().await?),
            };
            // The answer to an earlier try was lost, or the agent beside this one was faster.
            if let Some(mine) = seen.values().find(|other| self.is_mine(want, &other.spec)) {
                return Ok(Claimed::Block(Box::new(mine.clone())));
            }
            let block = match want.pool.mode {
                Mode::FromParent => match self.parents(want, seen) {
                    Ok(block) => block,
                    Err(why) => return Ok(Claimed::Taken(why)),
                },
                _ => match next_free(want, &self.node, seen.values().map(|other| &other.spec)) {
                    Some(block) => block,
                    None => return self.take_over(want, seen).await,
                },
            };
            if let Some(created) = self.create(block).await? {
                seen.insert(created.spec.name(), (*created).clone());
                return Ok(Claimed::Block(created));
            }
            *all = None;
        }
        Err(Error::Overtaken { verb: "create", kind: "AddressBlock", name: format!("{}.*", want.pool.name) })
    }

    fn parents(&self, want: &Want, seen: &Seen) -> Result<Block, String> {
        let block = want.pool.parents_block(&self.node, &want.pf)?;
        match seen.values().find(|other| other.spec.name() == block.name() || other.spec.overlaps(&block)) {
            None => Ok(block),
            Some(other) => Err(format!(
                "its prefix {} is that of PF {} of node {} already (AddressBlock {})",
                block.cidrs.first().map(ToString::to_string).unwrap_or_default(),
                other.spec.pf_pci_address,
                other.spec.node_name,
                other.spec.name()
            )),
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

    /// Blocks of all pools: those of one that was deleted, or made anew by other rules, may still be in use.
    async fn list(&self) -> Result<Seen, Error> {
        let list = self.timed("list AddressBlocks", self.blocks.list(&ListParams::default())).await?;
        let list = list.map_err(|source| Error::of_write("list", "AddressBlock", "of all pools", source))?;
        Ok(list
            .items
            .into_iter()
            .map(|block| (block.metadata.name.clone().unwrap_or_default(), block))
            .collect())
    }

    /// The pool is full. Blocks of nodes that are gone are marked; one that has been marked long enough is taken.
    async fn take_over(&self, want: &Want, seen: &mut Seen) -> Result<Claimed, Error> {
        let of_pool = seen.iter().filter(|(_, other)| other.spec.pool == want.pool.name);
        let others: Seen = of_pool.map(|(name, other)| (name.clone(), other.clone())).collect();
        let now = Timestamp::now();
        let mut gone: BTreeSet<&str> = BTreeSet::new();
        let nodes = self.look_for_nodes(&others, now).await?;
        for (name, other) in &others {
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
                    seen.remove(name);
                    let Some(block) = next_free(want, &self.node, seen.values().map(|other| &other.spec))
                    else {
                        continue;
                    };
                    if let Some(created) = self.create(block).await? {
                        seen.insert(created.spec.name(), (*created).clone());
                        return Ok(Claimed::Block(created));
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
