//! Strict decoding of opaque parameters: what is not understood is refused by name, never ignored.
//!
//! By hand over JSON values, not by derive: serde stops at the first fault and knows neither the full path nor which
//! field was meant.

use serde_json::Value;

use super::error::Faults;
use super::fields::{FIELDS, Field, LATER_KINDS, Shape, VfConfig};

/// `apiVersion` of the parameters. A constant of the API: it stays when `--driver-name` gives the driver another name,
/// so that manifests are portable between installations.
pub const API_VERSION: &str = "sriov-dra.io/v1alpha1";

/// `kind` of the parameters.
pub const KIND: &str = "VfConfig";

/// Decodes the opaque parameters of one config entry.
///
/// `null` is unset, also for a whole section. Errors: every fault there is, with paths below the parameters.
pub fn decode_parameters(parameters: &Value) -> Result<VfConfig, Faults> {
    let mut faults = Faults::default();
    let mut config = VfConfig::default();
    let mut root = At { path: String::new(), faults: &mut faults };
    match parameters.as_object() {
        None => {
            root.wrong_type::<()>(
                parameters,
                &format!("an object with apiVersion {API_VERSION} and kind {KIND}"),
            );
        }
        // Fields of a foreign kind can't be judged, so the header's faults stand alone.
        Some(object) if root.check_header(object) => {
            root.section(object, FIELDS, &["apiVersion", "kind"], &mut config)
        }
        Some(_) => {}
    }
    if faults.0.is_empty() { Ok(config) } else { Err(faults) }
}

/// A place in the parameters while they are read.
pub(super) struct At<'a> {
    path: String,
    faults: &'a mut Faults,
}

impl At<'_> {
    /// Notes a fault here. Returns `None` of any type, so that a reader can end with it.
    pub(super) fn fault<T>(&mut self, problem: impl Into<String>) -> Option<T> {
        let path = if self.path.is_empty() { "parameters" } else { &self.path };
        self.faults.add(path, problem);
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

    /// A whole number not below zero, or a fault; numbers in quotes are strings.
    pub(super) fn whole_number(&mut self, value: &Value, expected: &str) -> Option<u64> {
        match value.as_u64() {
            Some(number) => Some(number),
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
        At { path: format!("{}[{index}]", self.path), faults: self.faults }
    }

    fn child(&mut self, name: &str) -> At<'_> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        At { path, faults: self.faults }
    }

    fn check_header(&mut self, object: &serde_json::Map<String, Value>) -> bool {
        let got = |field: &str| object.get(field).filter(|value| !value.is_null());
        let (version, kind) = (got("apiVersion"), got("kind"));
        if version.is_some_and(|v| v == API_VERSION) && kind.is_some_and(|k| k == KIND) {
            return true;
        }
        if let Some(kind) = kind.and_then(Value::as_str).filter(|kind| LATER_KINDS.contains(kind)) {
            self.child("kind").fault::<()>(format!(
                "{kind} is not supported by this version ({})",
                env!("CARGO_PKG_VERSION")
            ));
            return false;
        }
        let show = |value: Option<&Value>| value.map_or_else(|| "none".to_owned(), Value::to_string);
        self.fault::<()>(format!(
            "got apiVersion {} and kind {}, expected apiVersion {API_VERSION} and kind {KIND}",
            show(version),
            show(kind)
        ));
        false
    }

    fn section(
        &mut self,
        object: &serde_json::Map<String, Value>,
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
                (Shape::Value(read), value) => read(&mut at, value, config),
            }
        }
    }
}

/// `unknown field, known are addresses, mtu, name (did you mean mtu?)`.
fn unknown(name: &str, fields: &'static [Field]) -> String {
    let known: Vec<&str> =
        fields.iter().filter(|field| !matches!(field.shape, Shape::Later)).map(|field| field.name).collect();
    let meant = known
        .iter()
        .map(|known| (edits(name, known), (*known).to_owned()))
        .filter(|(edits, known)| *edits <= 2 && *edits < known.len())
        .min()
        .map(|(_, known)| known)
        .or_else(|| elsewhere(name, FIELDS, ""));
    let hint = meant.map(|meant| format!(" (did you mean {meant}?)")).unwrap_or_default();
    format!("unknown field, known are {}{hint}", known.join(", "))
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
