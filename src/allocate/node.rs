//! Nodes and selectors of nodes.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement};
use k8s_openapi::api::resource::v1::ResourceSlice;

/// A node that claims may be allocated for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`
    pub name: String,
    /// `metadata.labels`; pools with a node selector need them.
    pub labels: BTreeMap<String, String>,
}

impl Node {
    /// A node nobody knows the labels of.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), labels: BTreeMap::new() }
    }
}

/// The nodes that slices name, in the order of their names.
pub fn nodes(slices: &[ResourceSlice]) -> Vec<Node> {
    let of_slices = slices.iter().filter_map(|slice| slice.spec.node_name.as_deref());
    let of_devices = slices
        .iter()
        .flat_map(|slice| slice.spec.devices.iter().flatten())
        .filter_map(|device| device.node_name.as_deref());
    let names: BTreeSet<&str> = of_slices.chain(of_devices).collect();
    names.into_iter().map(Node::named).collect()
}

/// Whether what is for this node name, all nodes, or a selector is for `node`.
pub(super) fn is_for(
    node: &Node,
    name: Option<&str>,
    all: Option<bool>,
    selector: Option<&NodeSelector>,
) -> bool {
    match (name.filter(|name| !name.is_empty()), all, selector) {
        (Some(name), _, _) => name == node.name,
        (None, Some(true), _) => true,
        (None, _, Some(selector)) => selects(selector, node),
        _ => false,
    }
}

/// Terms are alternatives, the requirements of one hold together; an empty term selects nothing (core/v1).
fn selects(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| {
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let labels = term.match_expressions.as_deref().unwrap_or_default();
        let name = |key: &str| (key == "metadata.name").then_some(node.name.as_str());
        let label = |key: &str| node.labels.get(key).map(String::as_str);
        !(fields.is_empty() && labels.is_empty())
            && fields.iter().all(|requirement| holds(requirement, name(&requirement.key)))
            && labels.iter().all(|requirement| holds(requirement, label(&requirement.key)))
    })
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = |value: &str| values.iter().any(|wanted| wanted == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = values.first().and_then(|wanted| number(wanted));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}
