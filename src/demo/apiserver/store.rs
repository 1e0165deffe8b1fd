//! All objects in memory, with resource versions and the log of changes that watches read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::Resource as TypedResource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::object::{born, str_at};
use super::resources::{RESOURCES, Resource};

/// Changes a watch can look back on.
const HISTORY: usize = 1024;

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    resource: usize,
    /// Empty for cluster-scoped ones.
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
}

impl Key {
    /// The place of `name`; the namespace of a cluster-scoped object is ignored.
    pub fn new(resource: &'static Resource, namespace: &str, name: &str) -> Self {
        let index = RESOURCES.iter().position(|r| std::ptr::eq(r, resource)).unwrap_or(usize::MAX);
        let namespace = if resource.namespaced { namespace.to_owned() } else { String::new() };
        Self { resource: index, namespace, name: name.to_owned() }
    }

    /// In this collection; an empty namespace is all of them.
    pub fn is_in(&self, resource: &'static Resource, namespace: &str) -> bool {
        let same = RESOURCES.get(self.resource).is_some_and(|r| std::ptr::eq(r, resource));
        same && (namespace.is_empty() || self.namespace == namespace)
    }
}

/// One change.
#[derive(Debug, Clone)]
pub struct Change {
    /// The resourceVersion it made.
    pub version: u64,
    /// Which object.
    pub key: Key,
    /// Before; `None` is a creation.
    pub before: Option<Arc<Value>>,
    /// After; for a deletion the last state, with the deletion's version.
    pub object: Arc<Value>,
    /// The object is gone.
    pub deleted: bool,
}

/// The state behind the lock.
#[derive(Debug, Default)]
pub struct Objects {
    /// The last resourceVersion given.
    pub version: u64,
    all: BTreeMap<Key, Arc<Value>>,
    log: VecDeque<Change>,
    forgotten: u64,
}

impl Objects {
    /// The object at `key`.
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.all.get(key).cloned()
    }

    /// A collection, in the order of namespace and name.
    pub fn list(&self, resource: &'static Resource, namespace: &str) -> Vec<(Key, Arc<Value>)> {
        let found = self.all.iter().filter(|(key, _)| key.is_in(resource, namespace));
        found.map(|(key, object)| (key.clone(), object.clone())).collect()
    }

    /// Writes the object with the next resourceVersion.
    pub fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(object);
        let before = self.all.insert(key.clone(), object.clone());
        self.record(Change { version: self.version, key, before, object: object.clone(), deleted: false });
        object
    }

    /// Removes the object.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.all.remove(key)?;
        self.version += 1;
        let mut object = (*before).clone();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(object);
        let change = Change {
            version: self.version,
            key: key.clone(),
            before: Some(before),
            object: object.clone(),
            deleted: true,
        };
        self.record(change);
        Some(object)
    }

    /// Changes after `version`; `Err` holds the oldest version a watch may start at.
    pub fn since(&self, version: u64) -> Result<Vec<Change>, u64> {
        if version < self.forgotten || version > self.version {
            return Err(self.forgotten);
        }
        let start = self.log.partition_point(|change| change.version <= version);
        Ok(self.log.range(start..).cloned().collect())
    }

    fn record(&mut self, change: Change) {
        self.log.push_back(change);
        while self.log.len() > HISTORY {
            self.forgotten = self.log.pop_front().map_or(self.forgotten, |change| change.version);
        }
    }
}

/// The store; a clone is the same store.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<Mutex<Objects>>,
    changed: watch::Sender<u64>,
}

impl Default for Store {
    fn default() -> Self {
        let store = Self { objects: Arc::default(), changed: watch::Sender::default() };
        if let Some(namespaces) = RESOURCES.iter().find(|resource| resource.kind == "Namespace") {
            for name in ["default", "kube-system"] {
                let object = json!({"metadata": {"name": name}, "status": {"phase": "Active"}});
                store.put(namespaces, object);
            }
        }
        store
    }
}

impl Store {
    /// Runs `work` on the objects, alone, and wakes the watches.
    pub fn with<T>(&self, work: impl FnOnce(&mut Objects) -> T) -> T {
        let mut objects = self.lock();
        let before = objects.version;
        let answer = work(&mut objects);
        let version = objects.version;
        drop(objects);
        if version != before {
            self.changed.send_replace(version);
        }
        answer
    }

    /// Tells of every new resourceVersion.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Writes an object past all rules of the API, as if it had always been there. Missing uid, kind and timestamps are
    /// filled in; an object of that name is replaced and keeps its uid.
    pub fn put(&self, resource: &'static Resource, mut object: Value) -> Arc<Value> {
        let key =
            Key::new(resource, str_at(&object, "/metadata/namespace"), str_at(&object, "/metadata/name"));
        self.with(|objects| {
            if let Some(before) = objects.get(&key) {
                for field in ["uid", "creationTimestamp"] {
                    if object["metadata"][field].is_null() {
                        object["metadata"][field] = before["metadata"][field].clone();
                    }
                }
            }
            objects.put(key, born(resource, object))
        })
    }

    /// Forgets all changes: a watch that resumes gets 410, as after a compaction.
    pub fn compact(&self) {
        let mut objects = self.lock();
        objects.forgotten = objects.version;
        objects.log.clear();
    }

    /// [`Store::put`] for typed objects; `None` if the kind isn't served.
    pub fn create<K: Stored>(&self, object: &K) -> Option<K> {
        let value = serde_json::to_value(object).ok()?;
        serde_json::from_value((*self.put(served::<K>()?, value)).clone()).ok()
    }

    /// The object as it is now.
    pub fn get<K: Stored>(&self, namespace: &str, name: &str) -> Option<K> {
        let key = Key::new(served::<K>()?, namespace, name);
        let object = self.lock().get(&key)?;
        serde_json::from_value((*object).clone()).ok()
    }

    /// All objects of a kind, in the order of namespace and name.
    pub fn list<K: Stored>(&self) -> Vec<K> {
        let Some(resource) = served::<K>() else {
            return Vec::new();
        };
        let objects = self.lock().list(resource, "");
        objects.iter().filter_map(|(_, object)| serde_json::from_value((**object).clone()).ok()).collect()
    }

    /// Replaces the object of that name, or writes a new one.
    pub fn replace<K: Stored>(&self, object: &K) -> Option<K> {
        self.create(object)
    }

    /// Removes the object, finalizers or not; `false` if there is none.
    pub fn delete<K: Stored>(&self, namespace: &str, name: &str) -> bool {
        let Some(resource) = served::<K>() else {
            return false;
        };
        self.with(|objects| objects.remove(&Key::new(resource, namespace, name)).is_some())
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Typed objects the store can hold.
pub trait Stored: TypedResource + Serialize + DeserializeOwned {}
impl<K: TypedResource + Serialize + DeserializeOwned> Stored for K {}

fn served<K: TypedResource>() -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == K::GROUP && r.version == K::VERSION && r.kind == K::KIND)
}
