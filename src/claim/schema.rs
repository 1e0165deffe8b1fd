//! The parameters as a JSON Schema (draft 2020-12), for editors and pipelines.
//!
//! What depends on several fields or entries, or on who says it, no schema knows; [`super::check_config`] does.

use serde_json::{Map, Value, json};

use super::decode::{API_VERSION, GRANT_KIND, KIND};
use super::fields::{FIELDS, Field, Leaf, Shape, Who, fields};
use super::grant::VfGrant;
use super::value::{Form, TextForm};
use crate::device::{LABEL_PATTERN, LONGEST_LABEL};

/// The schema of a config entry's `opaque.parameters`.
pub fn json_schema() -> Value {
    let kinds = [KIND, GRANT_KIND];
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("urn:{}", API_VERSION.replace('/', ":")),
        "title": format!("opaque.parameters of sriov-dra, {API_VERSION}"),
        "type": "object",
        "required": ["apiVersion", "kind"],
        "properties": {"kind": {"enum": kinds}},
        "allOf": kinds.map(|kind| json!({
            "if": {"properties": {"kind": {"const": kind}}},
            "then": {"$ref": format!("#/$defs/{kind}")},
        })),
        "$defs": {KIND: config(), GRANT_KIND: grant()},
    })
}

fn header(kind: &str, about: &str, mut properties: Map<String, Value>) -> Value {
    properties.insert("apiVersion".to_owned(), json!({"const": API_VERSION}));
    properties.insert("kind".to_owned(), json!({"const": kind}));
    json!({"description": about, "type": "object", "properties": properties, "additionalProperties": false})
}

fn config() -> Value {
    header(
        KIND,
        "what is wanted of the VFs; null is unset, and what is unset is never touched",
        section(FIELDS),
    )
}

fn section(fields: &[Field]) -> Map<String, Value> {
    let schema = |field: &Field| match &field.shape {
        Shape::Section(inner) => json!({
            "type": ["object", "null"], "properties": section(inner), "additionalProperties": false,
        }),
        Shape::Value(leaf) => value(leaf),
        Shape::Later => json!({"type": "null", "description": "not in this version"}),
    };
    fields.iter().map(|field| (field.name.to_owned(), schema(field))).collect()
}

fn value(leaf: &Leaf) -> Value {
    let who = match leaf.who {
        Who::Anyone => "",
        Who::Granted => "; in a claim only with a grant of its class",
        Who::Class => "; in a DeviceClass only",
    };
    let mut schema = match leaf.value.form() {
        Form::Switch => json!({"type": ["boolean", "null"]}),
        Form::Number { least, most, .. } => {
            json!({"type": ["integer", "null"], "minimum": least, "maximum": most})
        }
        Form::Word(words) => {
            let words = words.into_iter().map(Value::from).chain([Value::Null]);
            json!({"enum": words.collect::<Vec<_>>()})
        }
        Form::Text(form) => text(&form, json!(["string", "null"])),
        Form::List { of, most } => json!({
            "type": ["array", "null"], "maxItems": most, "uniqueItems": true, "items": text(&of, json!("string")),
        }),
        Form::Objects { fields, most } => {
            let required: Vec<&str> =
                fields.iter().filter(|(.., required)| *required).map(|(name, ..)| *name).collect();
            let properties: Map<String, Value> = fields
                .iter()
                .map(|(name, form, required)| {
                    let types = if *required { json!("string") } else { json!(["string", "null"]) };
                    ((*name).to_owned(), text(form, types))
                })
                .collect();
            let items = json!({
                "type": "object", "required": required, "properties": properties, "additionalProperties": false,
            });
            json!({"type": ["array", "null"], "maxItems": most, "items": items})
        }
    };
    schema["description"] = json!(format!("{}{who}", leaf.about));
    schema
}

fn text(form: &TextForm, types: Value) -> Value {
    let mut schema = json!({"type": types, "pattern": format!("^{}$", form.pattern)});
    if !form.except.is_empty() {
        schema["not"] = json!({"enum": form.except});
    }
    schema
}

fn grant() -> Value {
    let granted: Vec<_> = fields().into_iter().filter(|field| field.leaf.who == Who::Granted).collect();
    let [field, values] = VfGrant::OF_ALLOWANCE;
    let names: Vec<&str> = granted.iter().map(|field| field.path.as_str()).collect();
    let by_field = granted.iter().map(|of| {
        json!({
            "if": {"properties": {field: {"const": of.path}}},
            "then": {"properties": {values: {"items": allowed(of.leaf.value.form())}}},
        })
    });
    let allowance = json!({
        "type": "object",
        "required": [field],
        "properties": {
            field: {"enum": names, "description": "which field"},
            values: {
                "type": ["array", "null"], "minItems": 1,
                "description": "values, and ranges such as \"100-199\" of numbers and MAC addresses; left out: any value",
            },
        },
        "additionalProperties": false,
        "allOf": by_field.collect::<Vec<_>>(),
    });
    let [namespaces, allow] = VfGrant::FIELDS;
    let properties = [
        (
            namespaces.to_owned(),
            json!({
                "type": ["array", "null"],
                "description": "whose claims; none named: all",
                "items": {"type": "string", "pattern": format!("^{LABEL_PATTERN}$"), "maxLength": LONGEST_LABEL},
            }),
        ),
        (
            allow.to_owned(),
            json!({"type": "array", "minItems": 1, "description": "what they may set", "items": allowance}),
        ),
    ];
    let about = "what claims of this DeviceClass may set beyond the fields that every claim may set; counts in a \
                 DeviceClass only";
    let mut schema = header(GRANT_KIND, about, Map::from_iter(properties));
    schema["required"] = json!([allow]);
    schema
}

/// One of a grant's values.
fn allowed(form: Form) -> Value {
    match form {
        Form::Switch => json!({"type": "boolean"}),
        Form::Number { least, most, .. } => json!({
            "anyOf": [
                {"type": "integer", "minimum": least, "maximum": most},
                {"type": "string", "pattern": "^[0-9]{1,20}(-[0-9]{1,20})?$"},
            ],
        }),
        Form::Word(words) => json!({"enum": words}),
        // No grant names values of these.
        Form::Objects { .. } => json!(false),
        Form::Text(TextForm { pattern, ranges: false, .. }) => {
            json!({"type": "string", "pattern": format!("^{pattern}$")})
        }
        Form::Text(TextForm { pattern, .. }) | Form::List { of: TextForm { pattern, .. }, .. } => {
            json!({"type": "string", "pattern": format!("^{pattern}(-{pattern})?$")})
        }
    }
}
