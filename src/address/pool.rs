//! A pool whose `spec` holds together, and the arithmetic of its blocks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::span::{self, Span};
use super::spec::{Block, Mode, Parent, PfSelector};

/// Blocks that are considered; nobody has more PFs.
const MOST_BLOCKS: u64 = 1 << 31;

/// An AddressPool that was read without a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `spec.mode`
    pub mode: Mode,
    /// IPv4 first.
    pub families: Vec<Family>,
    /// `spec.routes`
    pub routes: Vec<RouteRule>,
    /// `spec.nodeSelector`
    pub node_selector: BTreeMap<String, String>,
    /// `spec.pfs`
    pub pfs: PfSelector,
}

/// One family of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// The subnet, or what prefixes are cut from.
    pub cidr: IpNet,
    /// What may be given out; empty is all.
    pub ranges: Vec<Span>,
    /// Prefix length of a block.
    pub block_length: u8,
    /// Where the gateway is.
    pub gateway: Option<Gateway>,
    /// What is never given out.
    pub exclude: Vec<Span>,
}

/// Where the gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// There.
    Address(IpAddr),
    /// The n-th host of subnet or prefix; from its end where negative.
    Index(i64),
}

/// A route of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRule {
    /// Where it leads to.
    pub to: IpNet,
    /// A neighbour; none is the gateway.
    pub via: Option<IpAddr>,
    /// On which PFs.
    pub pfs: PfSelector,
}

impl Pool {
    /// The pool is for nodes with these labels.
    pub fn is_for_node(&self, labels: &BTreeMap<String, String>) -> bool {
        self.node_selector.iter().all(|(label, value)| labels.get(label) == Some(value))
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> u64 {
        self.families.iter().map(Family::blocks).min().unwrap_or(0)
    }

    /// Where the search for a block begins: elsewhere for every PF of every node, so that they rarely meet.
    pub fn first_try(&self, node: &str, pf: &Parent) -> u64 {
        // FNV-1a with the finish of MurmurHash3, as low bits of the former differ little between neighbours. It need not
        // be secret, but the same in every version.
        let text = format!("{node}/{}", pf.pci);
        let mut hash = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
            hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
        }
        (hash ^ (hash >> 33)) % self.blocks().max(1)
    }

    /// The block of this number as it would be claimed now; none past the last.
    pub fn block(&self, index: u64, node: &str, pf: &Parent) -> Option<Block> {
        let cidrs: Option<Vec<IpNet>> = self.families.iter().map(|family| family.block(index)).collect();
        Some(self.block_of(index, cidrs?, node, pf))
    }

    /// The block that the PF's own addresses dictate (`fromParent`).
    ///
    /// # Errors
    /// Why they dictate none.
    pub fn parents_block(&self, node: &str, pf: &Parent) -> Result<Block, String> {
        let mut cidrs = Vec::new();
        let mut index = None;
        for family in &self.families {
            let inside = pf.addresses.iter().filter(|own| family.cidr.contains(&own.addr())).min();
            let own = inside.ok_or_else(|| format!("the PF has no address of {}", family.cidr))?;
            if own.prefix_len() != family.block_length {
                return Err(format!(
                    "the PF's address {own} has not the pool's prefixLength {}",
                    family.block_length
                ));
            }
            let number = family
                .index_of(&own.trunc())
                .ok_or_else(|| format!("{own} is no block of {}", family.cidr))?;
            index.get_or_insert(number);
            cidrs.push(own.trunc());
        }
        Ok(self.block_of(index.unwrap_or(0), cidrs, node, pf))
    }

    fn block_of(&self, index: u64, cidrs: Vec<IpNet>, node: &str, pf: &Parent) -> Block {
        let reserved = cidrs.iter().zip(&self.families).flat_map(|(cidr, family)| {
            let mut taken = family.never_given(self.mode, cidr);
            taken.extend(pf.addresses.iter().map(|own| Span::one(own.addr())));
            let block = Span::of(*cidr);
            span::merged(taken.iter().filter_map(|taken| block.common(taken)))
        });
        let (pool, pool_uid) = (self.name.clone(), self.uid.clone());
        let reserved = reserved.collect();
        Block { pool, pool_uid, index, cidrs, reserved, node_name: node.to_owned(), pf_pci_address: pf.pci }
    }

    /// The block is one that this pool, as it is now, would make at its number.
    pub fn still_has(&self, block: &Block) -> bool {
        let same = |(cidr, family): (&IpNet, &Family)| match self.mode {
            Mode::FromParent => family.index_of(cidr).is_some(),
            _ => family.block(block.index) == Some(*cidr),
        };
        block.cidrs.len() == self.families.len() && block.cidrs.iter().zip(&self.families).all(same)
    }

    /// Everything that could be given out.
    pub fn reach(&self) -> Vec<Span> {
        let spans = self.families.iter().flat_map(|family| match family.ranges.is_empty() {
            true => vec![Span::of(family.cidr)],
            false => family.ranges.clone(),
        });
        spans.collect()
    }

    /// What may not be changed in a pool, since VFs have addresses by it: one sentence.
    ///
    /// # Errors
    /// What was changed, and how it has to be.
    pub fn refuses(&self, next: &Self) -> Result<(), String> {
        if next.mode != self.mode {
            return Err(format!("spec.mode: it may not change from {} to {}", self.mode, next.mode));
        }
        let fields = |pool: &Self| -> Vec<&'static str> { pool.families.iter().map(Family::field).collect() };
        if fields(self) != fields(next) {
            return Err("spec: ipv4 and ipv6 can neither be added nor removed".to_owned());
        }
        for (old, new) in self.families.iter().zip(&next.families) {
            let field = old.field();
            if new.block_length != old.block_length {
                return Err(format!("spec.{field}: blockSize and prefixLength may not change"));
            }
            if new.cidr.network() != old.cidr.network() || new.cidr.prefix_len() > old.cidr.prefix_len() {
                return Err(format!(
                    "spec.{field}.cidr: it may only grow at its end: {} must stay the first address, with a prefix length \
                     of at most {}",
                    old.cidr.network(),
                    old.cidr.prefix_len()
                ));
            }
        }
        Ok(())
    }
}

impl Family {
    /// `ipv4` or `ipv6`
    pub fn field(&self) -> &'static str {
        if self.cidr.addr().is_ipv4() { "ipv4" } else { "ipv6" }
    }

    fn blocks(&self) -> u64 {
        let bits = self.block_length.saturating_sub(self.cidr.prefix_len());
        1_u64.checked_shl(u32::from(bits)).map_or(MOST_BLOCKS, |blocks| blocks.min(MOST_BLOCKS))
    }

    /// Addresses of a block, minus one.
    fn host_bits(&self) -> u32 {
        u32::from(self.cidr.max_prefix_len().saturating_sub(self.block_length))
    }

    fn block(&self, index: u64) -> Option<IpNet> {
        // A single block as wide as the address itself has no offset to shift to.
        let offset = u128::from(index)
            .checked_shl(self.host_bits())
            .filter(|at| at >> self.host_bits().min(127) == u128::from(index) || index == 0)?;
        let first = Span::of(self.cidr).at(offset).filter(|_| index < self.blocks())?;
        IpNet::new(first, self.block_length).ok()
    }

    fn index_of(&self, block: &IpNet) -> Option<u64> {
        if !self.cidr.contains(block) || block.prefix_len() != self.block_length || block.trunc() != *block {
            return None;
        }
        let before = Span::between(self.cidr.network(), block.network())?;
        let offset = span::count(&[before]).saturating_sub(1);
        let index = u64::try_from(offset.checked_shr(self.host_bits()).unwrap_or(0)).ok()?;
        (index < MOST_BLOCKS).then_some(index)
    }

    /// The subnet that a block's addresses are in: what stands behind their slash.
    pub fn subnet(&self, mode: Mode, block: &IpNet) -> IpNet {
        if mode == Mode::SharedSubnet { self.cidr } else { *block }
    }

    /// The gateway of a block.
    pub fn gateway_of(&self, mode: Mode, block: &IpNet) -> Option<IpAddr> {
        match self.gateway? {
            Gateway::Address(address) => Some(address),
            Gateway::Index(index) => host(&self.subnet(mode, block), index),
        }
    }

    /// What of a block no VF may have, whatever its PF has.
    pub(super) fn never_given(&self, mode: Mode, block: &IpNet) -> Vec<Span> {
        let subnet = self.subnet(mode, block);
        let mut taken = Span::of(subnet).without(&hosts(&subnet));
        taken.extend(self.gateway_of(mode, block).map(Span::one));
        taken.extend(&self.exclude);
        if !self.ranges.is_empty() {
            taken.extend(Span::of(*block).without(&self.ranges));
        }
        taken
    }
}

/// What a host can have of a subnet. IPv4 has a network and a broadcast address down to 30 bits (RFC 3021), IPv6 the
/// anycast address of its routers down to 126 (RFC 6164).
pub(super) fn hosts(subnet: &IpNet) -> Vec<Span> {
    let all = Span::of(*subnet);
    let bits = subnet.max_prefix_len() - subnet.prefix_len();
    match (subnet, bits) {
        (_, 0 | 1) => vec![all],
        (IpNet::V4(_), _) => all.without(&[Span::one(subnet.network()), Span::one(subnet.broadcast())]),
        (IpNet::V6(_), _) => all.without(&[Span::one(subnet.network())]),
    }
}

/// The n-th host, from 1, or from the end.
pub(super) fn host(subnet: &IpNet, index: i64) -> Option<IpAddr> {
    let hosts = hosts(subnet);
    let from_end = u128::from(index.unsigned_abs());
    let at = if index > 0 { from_end.checked_sub(1)? } else { span::count(&hosts).checked_sub(from_end)? };
    span::nth(&hosts, at).filter(|_| index != 0)
}

/// How many VFs a block has an address for: in the family with the fewest.
pub fn usable(block: &Block) -> u128 {
    let left = block.cidrs.iter().map(|cidr| span::count(&Span::of(*cidr).without(&block.reserved)));
    left.min().unwrap_or(0)
}
