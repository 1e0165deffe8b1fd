//! JSON patch, RFC 6902.

use serde_json::Value;

/// Applies the operations; `target` may be half patched after an error.
pub fn patch(target: &mut Value, operations: &Value) -> Result<(), String> {
    let operations = operations.as_array().ok_or("a JSON patch is a list of operations")?;
    operations.iter().try_for_each(|operation| apply(target, operation))
}

fn apply(target: &mut Value, operation: &Value) -> Result<(), String> {
    let text = |field: &str| {
        operation[field].as_str().ok_or_else(|| format!("operation {operation} has no {field}"))
    };
    let (op, path) = (text("op")?, text("path")?);
    let there = |target: &Value, path: &str| {
        target
            .pointer(path)
            .cloned()
            .ok_or_else(|| format!("{op} operation does not apply: doc is missing path: {path}"))
    };
    match op {
        "add" => add(target, path, operation["value"].clone()),
        "replace" => {
            there(target, path)?;
            if let Some(value) = target.pointer_mut(path) {
                *value = operation["value"].clone();
            }
            Ok(())
        }
        "remove" => remove(target, path),
        "test" if there(target, path)? == operation["value"] => Ok(()),
        "test" => Err(format!("testing value {path} failed")),
        "copy" => {
            let value = there(target, text("from")?)?;
            add(target, path, value)
        }
        "move" => {
            let value = there(target, text("from")?)?;
            remove(target, text("from")?)?;
            add(target, path, value)
        }
        op => Err(format!("Unexpected kind: {op}")),
    }
}

fn split(path: &str) -> Result<(&str, String), String> {
    let (parent, last) = path.rsplit_once('/').ok_or_else(|| format!("path {path:?} has no /"))?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent) {
        Some(Value::Object(map)) => {
            map.insert(last, value);
            Ok(())
        }
        Some(Value::Array(items)) => {
            let index = if last == "-" { Some(items.len()) } else { last.parse().ok() };
            let index = index.filter(|index| *index <= items.len());
            items.insert(index.ok_or_else(|| format!("no index {last} at {parent}"))?, value);
            Ok(())
        }
        _ => Err(format!("add operation does not apply: doc is missing path: {path}")),
    }
}

fn remove(target: &mut Value, path: &str) -> Result<(), String> {
    let (parent, last) = split(path)?;
    let removed = match target.pointer_mut(parent) {
        Some(Value::Object(map)) => map.remove(&last),
        Some(Value::Array(items)) => {
            last.parse().ok().filter(|index: &usize| *index < items.len()).map(|index| items.remove(index))
        }
        _ => None,
    };
    removed.map(|_| ()).ok_or_else(|| format!("remove operation does not apply: doc is missing path: {path}"))
}
