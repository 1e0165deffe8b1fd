//! GPUs of the simulated node, as their driver would publish them: enough for a scheduler to align VFs with them. There is
//! no such driver here; nobody prepares them.

use k8s_openapi::api::resource::v1::{
    CELDeviceSelector, Device, DeviceAttribute, DeviceClass, DeviceClassSpec, DeviceSelector, ResourcePool,
    ResourceSlice, ResourceSliceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::stage::NODE;
use super::world::Shape;

/// Driver and DeviceClass, by the name that NVIDIA's have.
pub const GPUS: &str = "gpu.nvidia.com";

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// Their class.
pub fn class() -> DeviceClass {
    let expression = format!("device.driver == \"{GPUS}\"");
    let selector = DeviceSelector { cel: Some(CELDeviceSelector { expression }) };
    let spec = DeviceClassSpec { selectors: Some(vec![selector]), ..DeviceClassSpec::default() };
    DeviceClass { metadata: named(GPUS), spec: Some(spec) }
}

/// One for each rail, below its root.
pub fn slice(shape: &Shape) -> ResourceSlice {
    let devices = shape.places().into_iter().enumerate().map(|(at, (root, numa_node))| {
        let attribute = |name: &str, value| (format!("resource.kubernetes.io/{name}"), value);
        let attributes = [
            attribute("pcieRoot", DeviceAttribute { string: Some(root), ..DeviceAttribute::default() }),
            attribute("numaNode", DeviceAttribute { int: Some(numa_node), ..DeviceAttribute::default() }),
        ];
        Device { name: format!("gpu-{at}"), attributes: Some(attributes.into()), ..Device::default() }
    });
    let pool = ResourcePool { name: NODE.to_owned(), generation: 1, resource_slice_count: 1 };
    let spec = ResourceSliceSpec {
        driver: GPUS.to_owned(),
        node_name: Some(NODE.to_owned()),
        pool,
        devices: Some(devices.collect()),
        ..ResourceSliceSpec::default()
    };
    ResourceSlice { metadata: named("demo-node-gpus"), spec }
}
