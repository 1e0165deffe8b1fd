//! Pools, blocks and addresses: what is refused, and who gets which number.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod faults;
mod numbers;

use ipnet::IpNet;
use serde_json::Value;

use super::{Parent, Pool, read};

fn pool(spec: Value) -> Pool {
    read("rails", "uid", &spec).unwrap_or_else(|faults| panic!("{faults}"))
}

fn pf(function: u8, addresses: &[&str]) -> Parent {
    let addresses = addresses.iter().map(|text| text.parse::<IpNet>().unwrap()).collect();
    Parent {
        pci: format!("0000:3b:00.{function}").parse().unwrap(),
        name: Some(format!("eno3np{}", function + 1)),
        rail: None,
        addresses,
    }
}
