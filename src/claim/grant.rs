//! `VfGrant`: what a DeviceClass lets its claims set beyond the fields that every claim may set.

use serde_json::{Map, Value as Json};

use super::decode::{At, GRANT_KIND, did_you_mean};
use super::error::some;
use super::fields::{FIELDS, Field, Full, Shape, Who, fields};
use super::value::{Datum, Span};
use crate::device::{LONGEST_LABEL, is_label};

/// The `VfGrant` of a class.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VfGrant {
    /// Whose claims; empty: all.
    pub namespaces: Vec<String>,
    /// What they may set.
    pub allow: Vec<Allowance>,
}

/// One field of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// `vf.vlan`
    pub field: String,
    /// `None`: any value that the field takes.
    pub values: Option<Vec<Span>>,
}

/// Spans that a sentence names.
const SHOWN: usize = 5;

impl VfGrant {
    /// Fields beside the header.
    pub(super) const FIELDS: [&'static str; 2] = ["namespaces", "allow"];
    /// Fields of one entry of `allow`.
    pub(super) const OF_ALLOWANCE: [&'static str; 2] = ["field", "values"];

    /// Reads one; what is wrong is noted.
    pub(super) fn read(at: &mut At<'_>, object: &Map<String, Json>) -> Self {
        at.only(object, &Self::FIELDS);
        let mut grant = Self::default();
        if let Some(given) = object.get("namespaces").filter(|given| !given.is_null()) {
            grant.namespaces = read_namespaces(&mut at.child("namespaces"), given);
        }
        let mut at = at.child("allow");
        let Some(given) = object.get("allow").filter(|given| !given.is_null()) else {
            at.fault::<()>(format!(
                "is missing; say what claims may set, as in allow: [{{field: vf.vlan, values: [\"100-199\"]}}] ({GRANT_KIND})"
            ));
            return grant;
        };
        let list =
            at.list(given, "a list such as [{field: vf.vlan, values: [\"100-199\"]}]").unwrap_or_default();
        if list.is_empty() && given.is_array() {
            at.fault::<()>(
                "is empty, so that nothing is granted; say what claims may set, or take the entry out",
            );
        }
        for (index, item) in list.iter().enumerate() {
            grant.allow.extend(Allowance::read(&mut at.item(index), item));
        }
        grant
    }

    /// It counts for claims of this namespace.
    pub(super) fn reaches(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|name| name == namespace)
    }

    fn of<'g>(&'g self, field: &str) -> impl Iterator<Item = &'g Allowance> {
        self.allow.iter().filter(move |allowance| allowance.field == field)
    }
}

impl Allowance {
    fn read(at: &mut At<'_>, given: &Json) -> Option<Self> {
        let Some(object) = given.as_object() else {
            return at.wrong_type(given, "an object such as {field: vf.vlan, values: [\"100-199\"]}");
        };
        at.only(object, &VfGrant::OF_ALLOWANCE);
        let mut of_field = at.child("field");
        let name = match object.get("field").filter(|given| !given.is_null()) {
            Some(given) => of_field.text(given, "the name of a field such as vf.vlan")?,
            None => return of_field.fault("is missing; name a field, as in vf.vlan"),
        };
        let field = match grantable(name) {
            Ok(field) => field,
            Err(problem) => return of_field.fault(problem),
        };
        let mut allowance = Self { field: field.path, values: None };
        if let Some(given) = object.get("values").filter(|given| !given.is_null()) {
            let mut at = at.child("values");
            let list = at.list(given, "a list of values")?;
            if list.is_empty() {
                return at.fault("is empty, so that no value is granted; leave it out for any value");
            }
            let values = list.iter().enumerate();
            let values =
                values.filter_map(|(index, item)| field.leaf.value.granted(&mut at.item(index), item));
            allowance.values = Some(values.collect());
        }
        Some(allowance)
    }

    fn contains(&self, value: &Datum) -> bool {
        self.values.as_ref().is_none_or(|spans| spans.iter().any(|span| span.contains(value)))
    }
}

/// The field with this name, if grants may name it. Errors: one sentence.
fn grantable(name: &str) -> Result<Full, String> {
    let all = fields();
    let known: Vec<String> =
        all.iter().filter(|field| field.leaf.who == Who::Granted).map(|field| field.path.clone()).collect();
    match all.into_iter().find(|field| field.path == name) {
        Some(field) => match field.leaf.who {
            Who::Granted => Ok(field),
            Who::Anyone => Err(format!(
                "{name} needs no grant: every claim may set it, to any value; take the entry out"
            )),
            Who::Class => Err(format!(
                "{name} can't be granted, only a DeviceClass itself may set it; take the entry out"
            )),
        },
        None if is_later(name) => {
            Err(format!("{name} is not supported by this version ({})", env!("CARGO_PKG_VERSION")))
        }
        None => {
            let hint = did_you_mean(name, known.iter().map(String::as_str));
            Err(format!("{name:?} is no field that can be granted, those are {}{hint}", known.join(", ")))
        }
    }
}

/// A field, or in a section, that a later version will know.
fn is_later(name: &str) -> bool {
    fn within(path: &[&str], fields: &'static [Field]) -> bool {
        let Some((first, rest)) = path.split_first() else { return false };
        fields.iter().filter(|field| field.name == *first).any(|field| match field.shape {
            Shape::Later => true,
            Shape::Section(inner) => within(rest, inner),
            Shape::Value(_) => false,
        })
    }
    within(&name.split('.').collect::<Vec<_>>(), FIELDS)
}

fn read_namespaces(at: &mut At<'_>, given: &Json) -> Vec<String> {
    let list = at.list(given, "a list of namespaces").unwrap_or_default();
    let mut namespaces = Vec::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        let mut at = at.item(index);
        match at.text(item, "the name of a namespace") {
            Some(name) if is_label(name) => namespaces.push(name.to_owned()),
            Some(name) => {
                at.fault::<()>(format!(
                    "{name:?} is no name of a namespace; use at most {LONGEST_LABEL} lower-case letters, digits and inner \
                     hyphens"
                ));
            }
            None => {}
        }
    }
    namespaces
}

/// Why a claim of `namespace` may not set a field to a value, as far as these grants of its class go; `class` is
/// `class tenant-vf`, say.
pub(super) fn refusal(
    grants: &[&VfGrant],
    class: &str,
    namespace: &str,
    field: &str,
    value: &Datum,
) -> Option<String> {
    let (here, elsewhere): (Vec<&&VfGrant>, Vec<_>) =
        grants.iter().partition(|grant| grant.reaches(namespace));
    let here: Vec<&Allowance> = here.into_iter().flat_map(|grant| grant.of(field)).collect();
    if here.iter().any(|allowance| allowance.contains(value)) {
        return None;
    }
    if !here.is_empty() {
        let spans = here.iter().flat_map(|allowance| allowance.values.iter().flatten()).map(Span::to_string);
        return Some(format!(
            "{value} is not granted: {class} lets claims of namespace {namespace} set {}; use one of these",
            some(&spans.collect::<Vec<_>>(), SHOWN)
        ));
    }
    let others = elsewhere.into_iter().filter(|grant| grant.of(field).next().is_some());
    let others: Vec<String> = others.flat_map(|grant| grant.namespaces.iter().cloned()).collect();
    Some(match others.is_empty() {
        true => format!(
            "{value} needs a grant, and {class} has none for this field; leave the field out, or use a class whose \
             {GRANT_KIND} allows it"
        ),
        false => format!(
            "{value} needs a grant, and {class} gives it to namespace {} only, not to {namespace}; leave the field out, or \
             use a class whose {GRANT_KIND} allows it",
            some(&others, SHOWN)
        ),
    })
}
