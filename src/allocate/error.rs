//! Why there is no allocation.

/// Each is one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A request names a class that does not exist.
    #[error("claim {claim}, request {request}: there is no DeviceClass {class}")]
    NoClass {
        /// `namespace/name`
        claim: String,
        /// `req` or `req/sub`
        request: String,
        /// As named.
        class: String,
    },
    /// A part of the claim or class that is not understood; [`super::check_claim`] says more.
    #[error("{object}: {problem}")]
    Faulty {
        /// `claim default/x` or `DeviceClass x`.
        object: String,
        /// With the field.
        problem: String,
    },
    /// A selector has no answer for a device.
    #[error(
        "{source_of}, selector {index}: it has no answer for device {device}: {problem}; the scheduler then gives the \
         whole claim up, on every node"
    )]
    SelectorError {
        /// `DeviceClass x` or `claim default/x, request y`.
        source_of: String,
        /// From 0.
        index: usize,
        /// `pool/device`
        device: String,
        /// The CEL error.
        problem: String,
    },
    /// All devices are asked for while it is not known which those are.
    #[error(
        "claim {claim}, request {request} asks for all devices, but pool {pool} of driver {driver} {problem}"
    )]
    PoolUnusable {
        /// `namespace/name`
        claim: String,
        /// `req` or `req/sub`
        request: String,
        /// Pool name.
        pool: String,
        /// Its driver.
        driver: String,
        /// What is wrong with it.
        problem: String,
    },
    /// All devices are asked for, and a constraint excludes one of them.
    #[error(
        "claim {claim}, request {request} asks for all devices, but a constraint on {attribute} does not let it have \
         device {device}"
    )]
    AllConstrained {
        /// `namespace/name`
        claim: String,
        /// `req` or `req/sub`
        request: String,
        /// Of the constraint.
        attribute: String,
        /// `pool/device`
        device: String,
    },
    /// Not found among so many tries that the scheduler, too, would run into its time limit.
    #[error("the search was stopped after {steps} tries without an answer")]
    TooManyTries {
        /// Devices tried.
        steps: usize,
    },
    /// The free devices are not enough or not the right ones.
    #[error("no free devices on node {node} satisfy the claim")]
    NoDevices {
        /// Node name.
        node: String,
    },
}

impl Refusal {
    /// The scheduler takes it for a fault of the claim and tries no other node either.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::TooManyTries { .. } | Self::NoDevices { .. })
    }
}
