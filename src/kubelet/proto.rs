//! Generated from `proto/`: registration and DRA messages, clients and servers. Nothing outside this room sees them,
//! tests apart.

// Generated code follows its generator's style.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

/// `pluginregistration`
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// `k8s.io.kubelet.pkg.apis.dra.v1`
pub mod v1 {
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
}

/// `k8s.io.kubelet.pkg.apis.dra.v1beta1`
pub mod v1beta1 {
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1beta1");
}
