//! Generated from `proto/`: NRI messages and ttrpc envelopes. Nothing outside this room sees them, tests apart.

// Generated code follows its generator's style.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

/// `google.rpc`
pub mod google {
    /// `google.rpc`
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

/// `ttrpc`
pub mod ttrpc {
    tonic::include_proto!("ttrpc");
}

/// `nri.pkg.api.v1alpha1`
pub mod api {
    tonic::include_proto!("nri.pkg.api.v1alpha1");
}
