//! What the objects of files are called: as an API server takes it, and each once.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::allocate::Fault;
use crate::device::{LONGEST_LABEL, LONGEST_SUBDOMAIN, is_label, is_subdomain};

/// Kinds without a namespace.
const OF_THE_CLUSTER: [&str; 3] = ["DeviceClass", "ResourceSlice", "AddressPool"];

/// Names so far, with the document that has each.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<(String, String, String), String>);

impl Names {
    /// Faults of the next object's name; `document` says where it stands.
    pub fn add(&mut self, document: &str, kind: &str, metadata: &ObjectMeta) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault =
            |field: &str, problem: String| faults.push(Fault { field: format!("metadata.{field}"), problem });
        let namespace = match OF_THE_CLUSTER.contains(&kind) {
            true => "",
            false => metadata.namespace.as_deref().unwrap_or("default"),
        };
        if !namespace.is_empty() && !is_label(namespace) {
            fault("namespace", not_a("namespace", namespace, LONGEST_LABEL, "letters, digits and hyphens"));
        }
        let Some(name) = metadata.name.as_deref().filter(|name| !name.is_empty()) else {
            let also = match &metadata.generate_name {
                Some(_) => " (generateName is not enough here)",
                None => "",
            };
            fault(
                "name",
                format!("is missing; give the object a name, as in my-{}{also}", kind.to_lowercase()),
            );
            return faults;
        };
        if !is_subdomain(name) {
            fault("name", not_a("object", name, LONGEST_SUBDOMAIN, "letters, digits, hyphens and dots"));
            return faults;
        }
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        if let Some(first) = self.0.get(&key) {
            let within = match namespace {
                "" => "the cluster".to_owned(),
                namespace => format!("namespace {namespace}"),
            };
            let problem = format!(
                "{name:?} is the name of {first}, too; every {kind} of {within} needs a name of its own"
            );
            fault("name", problem);
        } else {
            self.0.insert(key, document.to_owned());
        }
        faults
    }
}

/// `"My_Pod" is no name for an object; use …, as in my-pod`
fn not_a(what: &str, name: &str, most: usize, characters: &str) -> String {
    let article = if what.starts_with('o') { "an" } else { "a" };
    let rule =
        format!("use at most {most} lower-case {characters} (RFC 1123), with a letter or digit at both ends");
    // Close to what was meant, if that gives a name.
    let mended: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' && most > LONGEST_LABEL { c } else { '-' })
        .take(most)
        .collect();
    let mended = mended.trim_matches(['-', '.']);
    let example = if is_subdomain(mended) { mended } else { "my-name" };
    format!("{name:?} is no name for {article} {what}; {rule}, as in {example}")
}
