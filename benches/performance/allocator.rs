//! The scheduler's choice among 1,016 devices.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaimSpec, ResourceSlice};
use serde_json::{Value, json};
use sriov_dra::allocate::{Cluster, DeviceId, Node, Taken, Wanted, allocate};

use crate::measure::{Table, ms, time};
use crate::node::{PFS, VFS_PER_PF};

const ROUNDS: usize = 40;

pub fn measure(_binary: &Path, table: &mut Table) -> anyhow::Result<()> {
    let slices = slices()?;
    let class: DeviceClass = serde_json::from_value(json!({
        "metadata": {"name": "sriov-vf"},
        "spec": {"selectors": [{"cel": {"expression": "device.driver == \"sriov-dra.io\""}}]},
    }))?;
    let selector = [
        json!({"cel": {"expression": "device.attributes[\"sriov-dra.io\"].numaNode == 1 && device.attributes[\"sriov-dra.io\"].rdma"}}),
    ];
    let eight = |selectors: &[Value], constraints: Value| {
        json!({"devices": {
            "requests": [{"name": "vf", "exactly": {"deviceClassName": "sriov-vf", "count": 8, "selectors": selectors}}],
            "constraints": constraints,
        }})
    };
    let same_pf = json!({"matchAttribute": "sriov-dra.io/pfName"});
    let other_pf = json!({"distinctAttribute": "sriov-dra.io/pfName"});
    let half = taken(|vf, _| vf % 2 == 0);
    // Every PF but the last has fewer than eight VFs left: the search has to give up seven times.
    let scarce = taken(|vf, pf| vf >= 7 && pf + 1 < PFS);
    let none = Taken(BTreeMap::new());
    for (what, claim, taken) in [
        ("no constraint", eight(&[], json!([])), &none),
        ("a selector on NUMA node and RDMA", eight(&selector, json!([])), &none),
        ("matchAttribute pfName", eight(&[], json!([same_pf])), &none),
        ("distinctAttribute pfName", eight(&[], json!([other_pf])), &none),
        ("distinctAttribute pfName, every second VF held", eight(&[], json!([other_pf])), &half),
        ("matchAttribute pfName, room on the last PF only", eight(&[], json!([same_pf])), &scarce),
    ] {
        let claim: ResourceClaimSpec = serde_json::from_value(claim)?;
        let classes = std::slice::from_ref(&class);
        let cluster = Cluster { slices: &slices, classes, taken };
        let wanted = [Wanted { name: "default/eight", spec: &claim }];
        let samples = time(ROUNDS, || {
            let allocations = allocate(&cluster, &wanted, &Node::named("node-a"));
            allocations.map_err(|refusal| anyhow::anyhow!("{what}: {refusal}"))
        })?;
        let measured = format!("{}, p99 {}", ms(samples.median()), ms(samples.percentile(99)));
        table.figure(format!("Allocator, 1,016 devices, count 8, {what}"), measured);
    }
    Ok(())
}

/// In the driver's order: VF 0 of every PF, then VF 1.
fn slices() -> anyhow::Result<Vec<ResourceSlice>> {
    let devices: Vec<Value> = (0..VFS_PER_PF)
        .flat_map(|vf| (0..PFS).map(move |pf| (vf, pf)))
        .map(|(vf, pf)| {
            json!({"name": name(vf, pf), "attributes": {
                "sriov-dra.io/pfName": {"string": format!("ens{pf}f0")},
                "sriov-dra.io/vfIndex": {"int": vf},
                "sriov-dra.io/numaNode": {"int": pf / 4},
                "sriov-dra.io/linkType": {"string": "ethernet"},
                "sriov-dra.io/linkSpeedMbps": {"int": 100_000},
                "sriov-dra.io/rdma": {"bool": true},
            }})
        })
        .collect();
    let count = devices.len().div_ceil(128);
    let slice = |(index, chunk): (usize, &[Value])| {
        serde_json::from_value(json!({
            "metadata": {"name": format!("{index:05x}-sriov-dra.io-node-a-x")},
            "spec": {
                "driver": "sriov-dra.io", "nodeName": "node-a", "devices": chunk,
                "pool": {"name": "node-a", "generation": 1, "resourceSliceCount": count},
            },
        }))
    };
    Ok(devices.chunks(128).enumerate().map(slice).collect::<Result<_, _>>()?)
}

fn name(vf: u32, pf: usize) -> String {
    format!("pf{pf}-vf{vf}")
}

fn taken(held: impl Fn(u32, usize) -> bool) -> Taken {
    let all = (0..VFS_PER_PF).flat_map(|vf| (0..PFS).map(move |pf| (vf, pf)));
    let id = |(vf, pf)| DeviceId {
        driver: "sriov-dra.io".to_owned(),
        pool: "node-a".to_owned(),
        device: name(vf, pf),
    };
    Taken(all.filter(|(vf, pf)| held(*vf, *pf)).map(|at| (id(at), "other/claim".to_owned())).collect())
}
