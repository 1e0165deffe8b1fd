//! The only room that touches the kernel: sysfs, netlink, network namespaces, bind and unbind.
//!
//! In: paths, PCI addresses, file descriptors of namespaces. Out: nouns of `device`, or an error that names the thing
//! and keeps the errno. Never here: decisions, Kubernetes, state that outlives a call.

pub mod sysfs;
