//! Strict decoding of opaque parameters: what is not understood is refused by name, never ignored.
//!
//! By hand over JSON values, not by derive: serde stops at the first fault and knows neither the full path nor which
//! field was meant.

use serde_json::{Map, Value};

use super::error::{Fault, Faults};
use super::fields::{FIELDS, Field, Leaf, Shape, VfConfig, Who};
use super::grant::VfGrant;

/// `apiVersion` of the parameters. A constant of the API: it stays when `--driver-name` gives the driver another name,
/// so that manifests are portable between installations.
pub const API_VERSION: &str = "sriov-dra.io/v1alpha1";

/// `kind` of the parameters that say what is wanted of a VF.
pub const KIND: &str = "VfConfig";

/// `kind` of the parameters that say what claims of a class may want.
pub const GRANT_KIND: &str = "VfGrant";

/// Whose word a config entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A DeviceClass's: whoever runs the cluster.
    Class,
    /// A claim's: anybody who may make claims.
    Claim,
}

/// The opaque parameters of one config entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parameters {
    /// What is wanted of the VFs.
    Config(Box<VfConfig>),
    /// What claims may want of them.
    Grant(VfGrant),
}

/// Decodes the opaque parameters of one config entry.
///
/// `null` is unset, also for a whole section. Errors: every fault there is, with paths below the parameters.
pub fn decode_parameters(parameters: &Value, source: Source) -> Result<Parameters, Faults> {
    match read_parameters(parameters, source) {
        (Some(decoded), faults) if faults.is_empty() => Ok(decoded),
        (_, faults) => Err(faults),
    }
}

/// The same, with what could be read beside the faults.
pub(super) fn read_parameters(parameters: &Value, source: Source) -> (Option<Parameters>, Faults) {
    let mut faults = Faults::default();
    let mut at = At { path: String::new(), source, faults: &mut faults };
    let Some(object) = parameters.as_object() else {
        at.wrong_type::<()>(parameters, &format!("an object with apiVersion {API_VERSION} and kind {KIND}"));
        return (None, faults);
    };
    // Fields of a foreign kind can't be judged, so the header's faults stand alone.
    let decoded = match at.kind(object) {
        Some(KIND) => {
            let mut config = VfConfig::default();
            at.section(object, FIELDS, HEADER, &mut config);
            Some(Parameters::Config(Box::new(config)))
        }
        Some(_) => Some(Parameters::Grant(VfGrant::read(&mut at, object))),
        None => None,
    };
    (decoded, faults)
}

/// The path of parameters as a whole.
pub const WHOLE: &str = "parameters";

/// What every kind of parameters has.
pub(super) const HEADER: &[&str] = &["apiVersion", "kind"];

/// A place in the parameters while they are read.
pub(super) struct At<'a> {
    path: String,
    source: Source,
    faults: &'a mut Faults,
}

impl At<'_> {
    /// Notes a fault here. Returns `None` of any type, so that a reader can end with it.
    pub(super) fn fault<T>(&mut self, problem: impl Into<String>) -> Option<T> {
        let path = if self.path.is_empty() { WHOLE } else { &self.path };
        self.faults.add(Fault { entry: None, path: path.to_owned(), problem: problem.into() });
        None
    }

    /// Notes that the value is of another JSON type than it should be.
    pub(super) fn wrong_type<T>(&mut self, got: &Value, expected: &str) -> Option<T> {
        let got = match got {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => format!("the boolean {value}"),
            Value::Number(number) => format!("the number {number}"),
            Value::String(text) => format!("the string {text:?}"),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
        };
        self.fault(format!("got {got}, expected {expected}"))
    }

    /// A string, or a fault.
    pub(super) fn text<'v>(&mut self, value: &'v Value, expected: &str) -> Option<&'v str> {
        match value.as_str() {
            Some(text) => Some(text),
            None => self.wrong_type(value, expected),
        }
    }

    /// A list, or a fault.
    pub(super) fn list<'v>(&mut self, value: &'v Value, expected: &str) -> Option<&'v [Value]> {
        match value.as_array() {
            Some(list) => Some(list),
            None => self.wrong_type(value, expected),
        }
    }

    /// The place of list item `index`.
    pub(super) fn item(&mut self, index: usize) -> At<'_> {
        At { path: format!("{}[{index}]", self.path), source: self.source, faults: self.faults }
    }

    /// The place of a field.
    pub(super) fn child(&mut self, name: &str) -> At<'_> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        At { path, source: self.source, faults: self.faults }
    }

    /// Notes every field that is none of these.
    pub(super) fn only(&mut self, object: &Map<String, Value>, known: &[&str]) {
        for name in
            object.keys().filter(|name| !known.contains(&name.as_str()) && !HEADER.contains(&name.as_str()))
        {
            let hint = did_you_mean(name, known.iter().copied());
            let problem = format!("unknown field, known are {}{hint}", known.join(", "));
            self.child(name).fault::<()>(problem);
        }
    }

    /// The kind, where it is one that may stand here.
    fn kind(&mut self, object: &Map<String, Value>) -> Option<&'static str> {
        let got = |field: &str| object.get(field).filter(|value| !value.is_null());
        let (version, kind) = (got("apiVersion"), got("kind"));
        let kind_is = |known: &str| kind.is_some_and(|kind| kind == known);
        let version_fits = version.is_some_and(|version| version == API_VERSION);
        if version_fits && kind_is(KIND) {
            return Some(KIND);
        }
        if version_fits && kind_is(GRANT_KIND) {
            return match self.source {
                Source::Class => Some(GRANT_KIND),
                Source::Claim => self.child("kind").fault(format!(
                    "{GRANT_KIND} counts only in a DeviceClass, a claim can't grant itself anything; take the entry out"
                )),
            };
        }
        let show = |value: Option<&Value>| value.map_or_else(|| "none".to_owned(), Value::to_string);
        let or_grant = match self.source {
            Source::Class => format!(" or {GRANT_KIND}"),
            Source::Claim => String::new(),
        };
        self.fault(format!(
            "got apiVersion {} and kind {}, expected apiVersion {API_VERSION} and kind {KIND}{or_grant}",
            show(version),
            show(kind)
        ))
    }

    fn section(
        &mut self,
        object: &Map<String, Value>,
        fields: &'static [Field],
        header: &[&str],
        config: &mut VfConfig,
    ) {
        for (name, value) in object {
            if header.contains(&name.as_str()) {
                continue;
            }
            let Some(field) = fields.iter().find(|field| field.name == name) else {
                let problem = unknown(name, fields);
                self.child(name).fault::<()>(problem);
                continue;
            };
            let mut at = self.child(name);
            match (&field.shape, value) {
                (_, Value::Null) => {}
                (Shape::Later, _) => {
                    let problem = format!(
                        "field {} is not supported by this version ({})",
                        at.path,
                        env!("CARGO_PKG_VERSION")
                    );
                    at.fault::<()>(problem);
                }
                (Shape::Section(fields), Value::Object(object)) => at.section(object, fields, &[], config),
                (Shape::Section(_), other) => {
                    at.wrong_type::<()>(other, "an object");
                }
                (Shape::Value(Leaf { who: Who::Class, .. }), _) if at.source == Source::Claim => {
                    at.fault::<()>("only a DeviceClass may set this; leave it out of the claim");
                }
                (Shape::Value(leaf), value) => leaf.value.read(&mut at, value, config),
            }
        }
    }
}

/// `unknown field, known are addresses, mtu, name (did you mean mtu?)`.
fn unknown(name: &str, fields: &'static [Field]) -> String {
    let known: Vec<&str> =
        fields.iter().filter(|field| !matches!(field.shape, Shape::Later)).map(|field| field.name).collect();
    let close = did_you_mean(name, known.iter().copied());
    let is_here = known.iter().any(|known| known.eq_ignore_ascii_case(name));
    // The very word in another section is likelier meant than a like one in this.
    let hint = match elsewhere(name, FIELDS, "").filter(|_| !is_here) {
        Some(elsewhere) => format!(" (did you mean {elsewhere}?)"),
        None => close,
    };
    format!("unknown field, known are {}{hint}", known.join(", "))
}

/// ` (did you mean mtu?)`, or nothing.
pub(super) fn did_you_mean<'k>(given: &str, known: impl Iterator<Item = &'k str>) -> String {
    let close = known.map(|known| (edits(given, known), known));
    let meant = close.filter(|(edits, known)| *edits <= 2 && *edits < known.len()).min();
    meant.map(|(_, known)| format!(" (did you mean {known}?)")).unwrap_or_default()
}

/// The full path of a field with this name in another section: forgetting `interface:` is the likeliest mistake.
fn elsewhere(name: &str, fields: &'static [Field], prefix: &str) -> Option<String> {
    fields.iter().find_map(|field| match field.shape {
        Shape::Section(inner) => elsewhere(name, inner, &format!("{prefix}{}.", field.name)),
        Shape::Value(_) if field.name.eq_ignore_ascii_case(name) => Some(format!("{prefix}{}", field.name)),
        _ => None,
    })
}

/// Edits between two words, letter case aside (Levenshtein, one row at a time).
pub fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().flat_map(char::to_lowercase).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cb, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let here = (diagonal + usize::from(ca != *cb)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = here;
            left = here;
        }
    }
    row.last().copied().unwrap_or_default()
}
