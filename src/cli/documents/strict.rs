//! Strict decoding of Kubernetes objects out of files: every field that is not known or of the wrong type is named.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::allocate::Fault;

/// Faults shown of one document.
const MOST_FAULTS: usize = 20;

/// Decodes an object.
///
/// # Errors
/// Every field that is of a wrong type or unknown, by its path.
pub fn decode<T: DeserializeOwned + Serialize>(value: &Value) -> Result<T, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut rest = value.clone();
    let decoded: T = loop {
        match serde_json::from_value(rest.clone()) {
            Ok(decoded) => break decoded,
            Err(error) if faults.len() < MOST_FAULTS => {
                let path = culprit::<T>(&rest);
                faults.push(Fault { field: shown(&path), problem: error.to_string() });
                // Without a list item, those after it would be called by wrong places.
                if !matches!(path.last(), Some(Step::Field(_))) || !blank(&mut rest, &path) {
                    return Err(faults);
                }
            }
            Err(_) => return Err(faults),
        }
    };
    let understood = serde_json::to_value(&decoded).unwrap_or_default();
    unknown(&rest, &understood, &mut Vec::new(), &mut faults);
    faults.truncate(MOST_FAULTS);
    if faults.is_empty() { Ok(decoded) } else { Err(faults) }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Item(usize),
}

fn shown(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Field(name) if text.is_empty() => text.push_str(name),
            Step::Field(name) => text.push_str(&format!(".{name}")),
            Step::Item(index) => text.push_str(&format!("[{index}]")),
        }
    }
    if text.is_empty() { "the document".to_owned() } else { text }
}

/// The place of the first error. The decoder doesn't say, so it is looked for: the deepest value that takes the error
/// with it when it is blanked (null is "unset" for every field of the API).
fn culprit<T: DeserializeOwned>(value: &Value) -> Vec<Step> {
    let message = |value: &Value| serde_json::from_value::<T>(value.clone()).err().map(|e| e.to_string());
    let before = message(value);
    let mut path = Vec::new();
    loop {
        let Some(here) = at(value, &path) else { return path };
        let steps: Vec<Step> = match here {
            Value::Object(map) => map.keys().cloned().map(Step::Field).collect(),
            Value::Array(list) => (0..list.len()).map(Step::Item).collect(),
            _ => return path,
        };
        let deeper = steps.into_iter().find_map(|step| {
            let mut longer = path.clone();
            longer.push(step);
            let mut blanked = value.clone();
            (blank(&mut blanked, &longer) && message(&blanked) != before).then_some(longer)
        });
        match deeper {
            Some(longer) => path = longer,
            None => return path,
        }
    }
}

fn at<'v>(value: &'v Value, path: &[Step]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Field(name) => value.get(name),
        Step::Item(index) => value.get(index),
    })
}

/// Takes the value away.
fn blank(value: &mut Value, path: &[Step]) -> bool {
    let Some((last, parents)) = path.split_last() else { return false };
    let parent = parents.iter().try_fold(value, |value, step| match step {
        Step::Field(name) => value.get_mut(name),
        Step::Item(index) => value.get_mut(index),
    });
    match (parent, last) {
        (Some(Value::Object(map)), Step::Field(name)) => map.remove(name).is_some(),
        (Some(Value::Array(list)), Step::Item(index)) if *index < list.len() => {
            list.remove(*index);
            true
        }
        _ => false,
    }
}

/// What decoding lost: fields the API doesn't know. Null and empty values are lost rightly.
fn unknown(given: &Value, understood: &Value, path: &mut Vec<Step>, faults: &mut Vec<Fault>) {
    match given {
        Value::Object(map) => {
            for (name, value) in map {
                path.push(Step::Field(name.clone()));
                match understood.get(name) {
                    Some(kept) => unknown(value, kept, path, faults),
                    None if is_empty(value) => {}
                    None => faults.push(Fault {
                        field: shown(path),
                        problem: "there is no such field in this API version".to_owned(),
                    }),
                }
                path.pop();
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                path.push(Step::Item(index));
                unknown(value, understood.get(index).unwrap_or(&Value::Null), path, faults);
                path.pop();
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}
