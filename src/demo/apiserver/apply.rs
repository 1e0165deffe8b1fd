//! Server-side apply: merges what a manager wants, and removes what it no longer wants.

use serde_json::Value;

use super::fields::{
    FieldSet, List, Manager, Managers, Path, Step, display, get, is_atomic_map, leaves, list_at, remove,
    step_to,
};
use super::object::now;
use super::status::ApiError;

/// `live` with `wanted` of `manager` applied, `managedFields` included.
///
/// A field that another manager set to another value is a conflict, unless `force` takes it over. Fields and list items
/// that this manager applied before and that `wanted` lacks are removed where nobody else set them.
pub fn apply(live: &Value, wanted: &Value, manager: &Manager, force: bool) -> Result<Value, ApiError> {
    let mut managers = Managers::of(live);
    let wants = leaves(wanted);
    let had = managers.0.get(manager).map(|(set, _)| set.clone()).unwrap_or_default();

    let mut conflicts = Vec::new();
    for (other, (set, _)) in managers.0.iter_mut().filter(|(other, _)| *other != manager) {
        let taken: FieldSet = set
            .intersection(&wants)
            .filter(|path| get(live, path) != get(wanted, path) && is_value(path))
            .cloned()
            .collect();
        if !force {
            let mut owner = format!("{:?}", other.name);
            if !other.subresource.is_empty() {
                owner.push_str(&format!(" with subresource {:?}", other.subresource));
            }
            conflicts.extend(taken.iter().map(|path| (owner.clone(), display(path))));
        }
        set.retain(|path| !taken.contains(path));
    }
    if !conflicts.is_empty() {
        return Err(ApiError::apply_conflict(&conflicts));
    }

    let mut merged = live.clone();
    merge(&mut merged, wanted, &mut Vec::new());
    let others: FieldSet = managers
        .0
        .iter()
        .filter(|(other, _)| *other != manager)
        .flat_map(|(_, (set, _))| set.clone())
        .collect();
    let mut given_up: Vec<&Path> = had.iter().filter(|path| !wants.contains(*path)).collect();
    // An item goes as a whole, before the fields that tell it apart.
    given_up.sort_by_key(|path| path.len());
    for path in given_up {
        let kept_by_others = others.iter().any(|other| other.starts_with(path));
        if !kept_by_others && !is_key_of_kept_item(path, &wants, &others) {
            remove(&mut merged, path);
        }
    }
    let time = match managers.0.get(manager) {
        Some((set, time)) if *set == wants => time.clone(),
        _ => now(),
    };
    managers.0.insert(manager.clone(), (wants, time));
    managers.write_to(&mut merged);
    Ok(merged)
}

fn is_value(path: &Path) -> bool {
    !matches!(path.last(), Some(Step::Key(_) | Step::Item(_)))
}

/// The members that identify an item stay as long as the item does.
fn is_key_of_kept_item(path: &Path, wants: &FieldSet, others: &FieldSet) -> bool {
    let [item @ .., Step::Field(name)] = path.as_slice() else {
        return false;
    };
    let [list @ .., Step::Key(_)] = item else {
        return false;
    };
    let is_key = matches!(list_at(list), List::Map(keys) if keys.contains(&name.as_str()));
    is_key && wants.iter().chain(others).any(|path| path.starts_with(item))
}

fn merge(live: &mut Value, wanted: &Value, path: &mut Path) {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            for (key, value) in wanted {
                path.push(Step::Field(key.clone()));
                let atomic = value.is_object() && is_atomic_map(path);
                match live.get_mut(key).filter(|_| !atomic) {
                    Some(there) => merge(there, value, path),
                    None => {
                        live.insert(key.clone(), value.clone());
                    }
                }
                path.pop();
            }
        }
        (Value::Array(live), Value::Array(wanted)) if list_at(path) != List::Atomic => {
            let list = list_at(path);
            for item in wanted {
                let step = step_to(list, item);
                match live.iter_mut().find(|there| step_to(list, there) == step) {
                    Some(there) => {
                        path.extend(step);
                        merge(there, item, path);
                        path.pop();
                    }
                    None => live.push(item.clone()),
                }
            }
        }
        (live, wanted) => *live = wanted.clone(),
    }
}

#[cfg(test)]
#[path = "tests/apply.rs"]
mod tests;
