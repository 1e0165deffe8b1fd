//! The version after this one, as far as this one meets it on a node: what it writes into the ledger's files. For tests of
//! upgrades and of the way back. A process plays it from its start, or does not.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

/// What it writes into the envelope, and the newest `minReader` it understands.
pub const VERSION: u32 = super::sealed::VERSION + 1;
/// Entries of claims that their pods call so are for its eyes only: their `minReader` is [`VERSION`].
pub const ONLY_NEXT: &str = "only-next";
/// What it adds to each body, and to each VF of an entry.
pub const FIELD: &str = "sinceNext";

static PLAYED: AtomicBool = AtomicBool::new(false);

/// From now on this process writes and reads as the next version.
pub fn play() {
    PLAYED.store(true, Ordering::Relaxed);
}

pub(super) fn is_played() -> bool {
    PLAYED.load(Ordering::Relaxed)
}

/// `minReader` and body, of what this version would write.
pub(super) fn as_written(mut body: Value) -> (u32, Value) {
    let vfs = body.get_mut("vfs").and_then(Value::as_array_mut).into_iter().flatten();
    for vf in vfs.filter_map(Value::as_object_mut) {
        vf.insert(FIELD.to_owned(), json!(["each", "VF"]));
    }
    let wants_it = body["podClaimName"] == ONLY_NEXT;
    if let Some(fields) = body.as_object_mut() {
        fields.insert(FIELD.to_owned(), json!({ "what": "this version knows nothing of" }));
    }
    (if wants_it { VERSION } else { 1 }, body)
}
