//! sriov-dra: a Kubernetes DRA driver for SR-IOV virtual functions.
//!
//! Two flows run through this crate, and the list of rooms below is their order:
//!
//! ```text
//!  advertise   host ──► inventory ──► policy ──► controller ──► ResourceSlices
//!  serve       kubelet ──► claim ──► prepare (plan ► apply ► ledger, CDI) ──► attach (NRI) ──► status
//!                                         │                                      │
//!                                         └───────────────► host ◄───────────────┘
//! ```
//!
//! - [`device`]: the nouns every room shares (PF, VF, PCI address, link). No I/O.
//! - [`host`]: the only room that touches the kernel: sysfs, netlink, network namespaces.
//! - [`inventory`]: what the kernel shows, as one snapshot of PFs and VFs.
//! - [`policy`]: which VFs are offered and with which attributes, which are withheld and why. Pure.
//! - [`address`]: pools, blocks of a node, and the address of a VF by its number. Pure.
//! - [`controller`]: keeps the node's ResourceSlices as the policy says they are.
//! - [`kubelet`]: registration and the DRA gRPC services. Wire only.
//! - [`allocate`]: which devices a claim gets and why not others, as the scheduler decides. Pure.
//! - [`claim`]: an allocated ResourceClaim and its `VfConfig` to a validated request. Pure.
//! - [`prepare`]: compiles a request to a plan, applies or reverts it, keeps the ledger and the CDI files.
//! - [`nccl`]: the topology and the variables by which NCCL and UCX find exactly a container's VFs. Pure.
//! - [`attach`]: moves VFs into a pod's network namespace and back; the NRI plugin; claim status.
//! - [`doctor`]: what a node has and lacks, and how it is mended. Pure. [`runtime`]: the container runtime asked over CRI.
//! - [`observe`] writes the log.
//! - [`app`]: the one composition root. [`cli`]: the commands.
//! - [`demo`]: a simulated node, the embedded API server and stand-ins, for machines without a cluster.
//!
//! Who may import whom is tested by `tests/layers.rs`; `docs/design.md` says why.

pub mod address;
pub mod allocate;
pub mod app;
pub mod attach;
pub mod claim;
pub mod cli;
pub mod controller;
pub mod demo;
pub mod device;
pub mod doctor;
pub mod host;
pub mod inventory;
pub mod kubelet;
pub mod nccl;
pub mod observe;
pub mod policy;
pub mod prepare;
pub mod runtime;

/// Driver name and API group unless `--driver-name` says otherwise.
pub const DEFAULT_DRIVER_NAME: &str = "sriov-dra.io";
