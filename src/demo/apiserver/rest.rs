//! The verbs: get, list, create, update, patch, delete.

use std::sync::Arc;

use serde_json::{Value, json};

use super::apply::apply;
use super::decode::{decoded, only_sent, typed};
use super::fields::{Manager, Managers};
use super::object::{born, generated_name, merge_patch, now, str_at, without_nulls};
use super::request::{Query, Target};
use super::resources::Resource;
use super::selector::Selector;
use super::status::{ApiError, FieldError};
use super::store::{Key, Objects, Store};
use super::{json_patch, pods, validate};

/// What a writer with an old version is told.
const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// How a PATCH is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7396
    Merge,
    /// RFC 6902
    Json,
    /// Server-side apply.
    Apply,
}

/// One request on the store.
pub struct Call<'a> {
    /// Where.
    pub store: &'a Store,
    /// On what.
    pub target: &'a Target,
    /// With which parameters.
    pub query: &'a Query,
    /// For `managedFields`, where the query names no manager.
    pub user_agent: &'a str,
    /// Sees every object before it is stored.
    pub admit: &'a dyn Fn(&mut Value),
}

/// HTTP status and body.
pub type Answer = Result<(u16, Arc<Value>), ApiError>;

impl Call<'_> {
    /// GET of one object.
    pub fn get(&self, name: &str) -> Answer {
        let key = self.key(name);
        let object = self.store.with(|objects| objects.get(&key));
        object.map(|object| (200, object)).ok_or_else(|| ApiError::not_found(self.target.resource, name))
    }

    /// GET of a collection.
    pub fn list(&self) -> Answer {
        let resource = self.target.resource;
        let selector = Selector::parse(resource, self.query)?;
        let (version, objects) =
            self.store.with(|objects| (objects.version, objects.list(resource, &self.target.namespace)));
        let items: Vec<Value> = objects
            .iter()
            .map(|(_, object)| &**object)
            .filter(|object| selector.matches(object))
            .map(item)
            .collect();
        let list = json!({
            "kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
            "metadata": {"resourceVersion": version.to_string()}, "items": items,
        });
        Ok((200, Arc::new(list)))
    }

    /// POST.
    pub fn create(&self, body: Value) -> Answer {
        let resource = self.target.resource;
        let mut object = decoded(self.target, self.query, body)?;
        let metadata = &mut object["metadata"];
        if metadata["name"].is_null() && !metadata["generateName"].is_null() {
            metadata["name"] = json!(generated_name(metadata["generateName"].as_str().unwrap_or_default()));
        }
        if !metadata["resourceVersion"].is_null() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        for field in ["uid", "creationTimestamp", "generation", "deletionTimestamp", "managedFields"] {
            metadata[field] = Value::Null;
        }
        first_status(resource, &mut object);
        let name = str_at(&object, "/metadata/name").to_owned();
        if name.is_empty() {
            let error = FieldError::required("metadata.name", "name or generateName is required");
            return Err(ApiError::invalid(resource, "", &[error]));
        }
        let mut object = self.admitted(born(resource, without_nulls(object)))?;
        validate::create(resource, &object)?;
        let mut managers = Managers::default();
        managers.record_update(self.manager("Update"), &Value::Null, &object);
        managers.write_to(&mut object);
        self.store.with(|objects| {
            self.fits_namespace(objects, &object)?;
            let key = self.key(&name);
            if objects.get(&key).is_some() {
                return Err(ApiError::already_exists(resource, &name));
            }
            Ok((201, self.committed(objects, key, object)))
        })
    }

    /// PUT.
    pub fn replace(&self, name: &str, body: Value) -> Answer {
        let body = decoded(self.target, self.query, body)?;
        let given = str_at(&body, "/metadata/name");
        if given != name {
            let message =
                format!("the name of the object ({given}) does not match the name on the URL ({name})");
            return Err(ApiError::bad_request(message));
        }
        self.change(name, |_| Ok(body.clone()))
    }

    /// PATCH.
    pub fn patch(&self, name: &str, kind: PatchKind, patch: Value) -> Answer {
        if kind == PatchKind::Apply {
            return self.apply(name, patch);
        }
        self.change(name, |before| {
            let mut object = before.clone();
            match kind {
                PatchKind::Json => json_patch::patch(&mut object, &patch).map_err(ApiError::unprocessable)?,
                _ => merge_patch(&mut object, &patch),
            }
            self.same_uid(name, &object, before)?;
            decoded(self.target, self.query, object).map_err(|error| {
                match error.message.contains("strict decoding error") {
                    true => {
                        let error = FieldError::invalid("patch", &patch, &error.message);
                        ApiError::invalid(self.target.resource, name, &[error])
                    }
                    false => error,
                }
            })
        })
    }

    fn apply(&self, name: &str, wanted: Value) -> Answer {
        let resource = self.target.resource;
        if self.query.get("fieldManager").is_empty() {
            return Err(ApiError::no_field_manager());
        }
        if !wanted.pointer("/metadata/managedFields").is_none_or(Value::is_null) {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        // Decoding fills in required members; those aren't what the manager wants.
        let mut wanted = only_sent(&wanted, decoded(self.target, self.query, wanted.clone())?);
        wanted["metadata"]["name"] = json!(name);
        if resource.namespaced {
            wanted["metadata"]["namespace"] = json!(self.target.namespace);
        }
        let manager = self.manager("Apply");
        let missing = self.store.with(|objects| objects.get(&self.key(name)).is_none());
        if missing && !self.target.is_status() {
            if !str_at(&wanted, "/metadata/uid").is_empty() {
                let why =
                    "uid mismatch: the provided object specified a uid, and no existing object was found";
                return Err(ApiError::conflict(resource, name, why));
            }
            let mut object =
                self.admitted(apply(&born(resource, wanted.clone()), &wanted, &manager, true)?)?;
            first_status(resource, &mut object);
            object = without_nulls(object);
            validate::create(resource, &object)?;
            return self.store.with(|objects| {
                self.fits_namespace(objects, &object)?;
                Ok((201, self.committed(objects, self.key(name), object)))
            });
        }
        let force = self.query.is_set("force");
        // Of the other part of the object, an apply sets nothing.
        if self.target.is_status() {
            wanted["spec"] = Value::Null;
        } else if resource.has_status {
            wanted["status"] = Value::Null;
        }
        let wanted = without_nulls(wanted);
        if let Some(list) = twice(&wanted) {
            return Err(ApiError::duplicate_entries(list));
        }
        self.change_with(name, false, |before| {
            let metadata = &wanted["metadata"];
            self.same_uid(name, &wanted, before)?;
            let version = &metadata["resourceVersion"];
            if !version.is_null() && *version != before["metadata"]["resourceVersion"] {
                return Err(self.precondition(
                    name,
                    "resourceVersion",
                    version,
                    &before["metadata"]["resourceVersion"],
                ));
            }
            let mut merged = apply(before, &wanted, &manager, force)?;
            merged["metadata"]["uid"] = before["metadata"]["uid"].clone();
            Ok(merged)
        })
    }

    /// A patch that names another UID would change it; a replacement that does is a conflict instead.
    fn same_uid(&self, name: &str, after: &Value, before: &Value) -> Result<(), ApiError> {
        let uid = &after["metadata"]["uid"];
        if uid.is_null() || *uid == before["metadata"]["uid"] {
            return Ok(());
        }
        let error = FieldError::invalid("metadata.uid", uid, "field is immutable");
        Err(ApiError::invalid(self.target.resource, name, &[error]))
    }

    /// DELETE of one object.
    pub fn delete(&self, name: &str, options: &Value) -> Answer {
        let resource = self.target.resource;
        let grace = self.grace(options);
        self.store.with(|objects| {
            let key = self.key(name);
            let object = objects.get(&key).ok_or_else(|| ApiError::not_found(resource, name))?;
            for field in ["uid", "resourceVersion"] {
                let wanted = &options["preconditions"][field];
                if !wanted.is_null() && *wanted != object["metadata"][field] {
                    return Err(self.precondition(name, field, wanted, &object["metadata"][field]));
                }
            }
            if !self.query.get("dryRun").is_empty() {
                return Ok((200, object));
            }
            let left = self.removed(objects, &key, &object, grace);
            // Its objects are marked in the API to be returned whole.
            if resource.group == "resource.k8s.io" || resource.kind == "Pod" {
                return Ok((200, left));
            }
            let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {
                    "name": name, "group": resource.group, "kind": resource.plural, "uid": object["metadata"]["uid"],
                },
            });
            Ok((200, Arc::new(status)))
        })
    }

    /// DELETE of a collection.
    pub fn delete_collection(&self, options: &Value) -> Answer {
        let resource = self.target.resource;
        let grace = self.grace(options);
        let selector = Selector::parse(resource, self.query)?;
        self.store.with(|objects| {
            let mut found = objects.list(resource, &self.target.namespace);
            found.retain(|(_, object)| selector.matches(object));
            for (key, object) in &found {
                self.removed(objects, key, object, grace);
            }
            let items: Vec<Value> = found.iter().map(|(_, object)| item(object)).collect();
            let list = json!({
                "kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
                "metadata": {"resourceVersion": objects.version.to_string()}, "items": items,
            });
            Ok((200, Arc::new(list)))
        })
    }

    /// `gracePeriodSeconds` of the query or the body.
    fn grace(&self, options: &Value) -> Option<i64> {
        self.query.get("gracePeriodSeconds").parse().ok().or(options["gracePeriodSeconds"].as_i64())
    }

    /// Finalizers keep an object, marked, and so does a pod's time of grace; without them it goes. What is left, or was.
    fn removed(
        &self,
        objects: &mut Objects,
        key: &Key,
        object: &Arc<Value>,
        grace: Option<i64>,
    ) -> Arc<Value> {
        if self.target.resource.kind == "Pod" {
            match pods::end(object, grace) {
                // It may have finalizers yet.
                pods::End::Now(pod) => {
                    let pod = objects.put(key.clone(), pod);
                    if is_finished(&pod) {
                        objects.remove(key);
                    }
                    return pod;
                }
                pods::End::Marked(pod) => return objects.put(key.clone(), pod),
                pods::End::Pending => return object.clone(),
            }
        }
        let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
        if finalizers.is_none_or(Vec::is_empty) {
            objects.remove(key);
        } else if object["metadata"]["deletionTimestamp"].is_null() {
            let mut marked = (**object).clone();
            marked["metadata"]["deletionTimestamp"] = json!(now());
            marked["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            if let Some(generation) = marked["metadata"]["generation"].as_i64() {
                marked["metadata"]["generation"] = json!(generation + 1);
            }
            return objects.put(key.clone(), marked);
        }
        object.clone()
    }

    fn change(&self, name: &str, next: impl Fn(&Value) -> Result<Value, ApiError>) -> Answer {
        self.change_with(name, true, next)
    }

    /// Writes what `next` makes of the object. `track`: whose fields changed is still to be recorded.
    fn change_with(
        &self,
        name: &str,
        track: bool,
        next: impl Fn(&Value) -> Result<Value, ApiError>,
    ) -> Answer {
        let resource = self.target.resource;
        self.store.with(|objects| {
            let key = self.key(name);
            let before = objects.get(&key).ok_or_else(|| ApiError::not_found(resource, name))?;
            let mut after = next(&before)?;
            let given = &after["metadata"];
            if !given["uid"].is_null() && given["uid"] != before["metadata"]["uid"] {
                return Err(self.precondition(name, "uid", &given["uid"], &before["metadata"]["uid"]));
            }
            let version = &given["resourceVersion"];
            if !version.is_null() && *version != before["metadata"]["resourceVersion"] {
                return Err(ApiError::conflict(resource, name, MODIFIED));
            }
            self.keep_what_is_not_the_clients(&before, &mut after);
            let mut after = self.admitted(without_nulls(after))?;
            if track {
                let mut managers = Managers::of(&before);
                managers.record_update(self.manager("Update"), &before, &after);
                managers.write_to(&mut after);
            }
            validate::update(resource, &before, &after, self.target.is_status())?;
            if same_but_for_managers(&before, &after)
                && Managers::of(&before).0.keys().eq(Managers::of(&after).0.keys())
            {
                return Ok((200, before));
            }
            if before["spec"] != after["spec"] && !before["metadata"]["generation"].is_null() {
                let generation = before["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
                after["metadata"]["generation"] = json!(generation);
            }
            let done = self.query.get("dryRun").is_empty() && is_finished(&after);
            let object = self.committed(objects, key.clone(), after);
            if done {
                objects.remove(&key);
            }
            Ok((200, object))
        })
    }

    /// The system's metadata, and the part of the object that this path doesn't write.
    fn keep_what_is_not_the_clients(&self, before: &Value, after: &mut Value) {
        if self.target.is_status() {
            let status = after["status"].clone();
            let managed = after["metadata"]["managedFields"].clone();
            *after = before.clone();
            after["status"] = status;
            after["metadata"]["managedFields"] = managed;
            if self.target.resource.kind == "ResourceClaim" {
                drop_deallocated(before, after);
            }
            return;
        }
        if self.target.resource.has_status {
            after["status"] = before["status"].clone();
        }
        const SYSTEM: [&str; 7] = [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "generation",
            "generateName",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ];
        for field in SYSTEM {
            after["metadata"][field] = before["metadata"][field].clone();
        }
    }

    fn committed(&self, objects: &mut Objects, key: Key, object: Value) -> Arc<Value> {
        if self.query.get("dryRun").is_empty() { objects.put(key, object) } else { Arc::new(object) }
    }

    /// The object after the webhooks, typed again: they may have left `null`s.
    fn admitted(&self, mut object: Value) -> Result<Value, ApiError> {
        (self.admit)(&mut object);
        typed(self.target.resource, object)
    }

    /// The namespace is there, and allows what the object asks for.
    fn fits_namespace(&self, objects: &Objects, object: &Value) -> Result<(), ApiError> {
        let namespace = &self.target.namespace;
        let Some(namespaces) = super::resources::find("", "v1", "namespaces") else {
            return Ok(());
        };
        if !self.target.resource.namespaced {
            return Ok(());
        }
        let found = objects.get(&Key::new(namespaces, "", namespace));
        let found = found.ok_or_else(|| ApiError::not_found(namespaces, namespace))?;
        validate::admin_access(self.target.resource, object, &found)
    }

    fn precondition(&self, name: &str, field: &str, wanted: &Value, have: &Value) -> ApiError {
        let field = if field == "uid" { "UID" } else { "ResourceVersion" };
        let [wanted, have] = [wanted, have].map(|value| value.as_str().unwrap_or_default());
        let why =
            format!("Precondition failed: {field} in precondition: {wanted}, {field} in object meta: {have}");
        ApiError::conflict(self.target.resource, name, &why)
    }

    fn manager(&self, operation: &'static str) -> Manager {
        let name = match self.query.get("fieldManager") {
            "" => self.user_agent.split('/').next().unwrap_or_default(),
            name => name,
        };
        let name = if name.is_empty() { "unknown" } else { name }.to_owned();
        Manager { name, operation, subresource: self.target.subresource.clone().unwrap_or_default() }
    }

    pub(super) fn key(&self, name: &str) -> Key {
        Key::new(self.target.resource, &self.target.namespace, name)
    }
}

/// What a new object's status is, whatever was sent.
fn first_status(resource: &Resource, object: &mut Value) {
    match resource.kind {
        "ResourceClaim" | "AddressPool" | "AddressBlock" => object["status"] = Value::Null,
        "Pod" => object["status"] = json!({"phase": "Pending"}),
        "Namespace" => object["status"] = json!({"phase": "Active"}),
        _ => {}
    }
}

/// An object in a list, whose kind the list says.
fn item(object: &Value) -> Value {
    let mut item = object.clone();
    if let Some(fields) = item.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    item
}

/// The list of a wanted object that has two items with one key.
fn twice(wanted: &Value) -> Option<&'static str> {
    let devices = wanted["status"]["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut seen = std::collections::BTreeSet::new();
    let key =
        |device: &Value| ["driver", "pool", "device", "shareID"].map(|member| device[member].to_string());
    devices.iter().any(|device| !seen.insert(key(device))).then_some("status.devices")
}

/// A device that is no longer allocated has no status any more, whoever deallocated it.
fn drop_deallocated(before: &Value, after: &mut Value) {
    let id =
        |device: &Value| ["driver", "pool", "device", "shareID"].map(|member| device[member].to_string());
    let allocated = |claim: &Value| {
        let results = claim.pointer("/status/allocation/devices/results").and_then(Value::as_array);
        results.into_iter().flatten().map(id).collect::<std::collections::BTreeSet<_>>()
    };
    let (had, has) = (allocated(before), allocated(after));
    if let Some(devices) = after["status"]["devices"].as_array_mut() {
        devices.retain(|device| !had.contains(&id(device)) || has.contains(&id(device)));
        if devices.is_empty() {
            after["status"]["devices"] = Value::Null;
        }
    }
}

fn same_but_for_managers(before: &Value, after: &Value) -> bool {
    let without = |object: &Value| {
        let mut object = object.clone();
        object["metadata"]["managedFields"] = Value::Null;
        object
    };
    without(before) == without(after)
}

/// Deleted, with no time of grace, and the last finalizer is gone.
fn is_finished(object: &Value) -> bool {
    if object["metadata"]["deletionGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds > 0) {
        return false;
    }
    let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    !object["metadata"]["deletionTimestamp"].is_null() && finalizers.is_none_or(Vec::is_empty)
}
