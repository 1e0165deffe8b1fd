//! Files of the ledger: of a disk that lost power, of another version, of somebody's editor.

use crate::engine::targets;

targets! {
    ledger_files, 1 << 17;
    ledger_bodies, 1 << 17;
}

mod hold {
    use std::fs;
    use std::path::{Path, PathBuf};

    use serde_json::Value;
    use sriov_dra::prepare::PrepareError;
    use sriov_dra::prepare::ledger::Ledger;
    use sriov_dra::prepare::records::{Entry, Ownership};
    use sriov_dra::prepare::text_of;

    const BOOT: &str = "boot-1";
    /// Where an input is put, a file of each kind. The name of a claim's file is its UID, which the corpus has.
    const PLACES: [&str; 8] = [
        "durable/claims/6f3c2f1e-0a57-4f5b-9d61-0d7ad5a3c0aa.json",
        "durable/vf/0000:81:00.2.json",
        "durable/unclean/0000:81:00.3.json",
        "boot/attach/6f3c2f1e-0a57-4f5b-9d61-0d7ad5a3c0aa.json",
        "boot/pods/pod-0.json",
        "durable/addresses.json",
        "durable/pods/pod-0",
        "durable/claims/no-name-of-a-claim",
    ];
    const UID: &str = "6f3c2f1e-0a57-4f5b-9d61-0d7ad5a3c0aa";
    /// A claim beside it.
    const OTHER: &str = r#"{"claim": {"uid": "other", "namespace": "ns", "name": "c"}, "podClaimName": "vf",
        "pod": {"uid": "pod-9", "name": "p"}, "bootId": "boot-1", "progress": "prepared", "vfs": [{"pci": "0000:81:00.7",
        "pf": null, "request": "main", "pool": "n", "device": "0000-81-00-7", "index": 0, "name": "net0",
        "clean": {"incarnation": 7, "driver": "igbvf", "name": "ens1v7", "hwAddr": "02:00:00:00:00:07", "mtu": 1500}}]}"#;

    /// Everything below a folder that is no folder.
    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
        }
        found.sort();
        found
    }

    /// What was damaged is aside, what is of a newer version is left alone, and the claim beside it is served.
    fn survives(place: &str, text: &[u8]) {
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let inner = root.path().join("a/b/c/d");
        fs::create_dir_all(&inner).unwrap();
        let (durable, boot) = (inner.join("durable"), inner.join("boot"));
        let ledger = Ledger::open(&durable, &boot).unwrap();
        let other: Entry = serde_json::from_str(OTHER).unwrap();
        ledger.put_entry_quickly(&other).unwrap();
        let path = inner.join(place);
        fs::write(&path, text).unwrap();

        let survey = ledger.survey(BOOT).unwrap_or_else(|error| panic!("{}: {error:?}", error.sentence()));
        assert_eq!(survey.unreadable, [""; 0]);
        let owner = ledger.ownership(other.vfs[0].pci).unwrap().map(|ownership| ownership.claim.uid);
        assert_eq!((ledger.entry("other").unwrap(), owner.as_deref()), (Some(other), Some("other")));
        assert_eq!(ledger.claims_of_pod("pod-9").unwrap(), ["other"]);
        // Each is found, is of a newer version, or is gone from its place; and nothing else fails.
        let fine = |outcome: Result<bool, PrepareError>| match outcome {
            Ok(_) | Err(PrepareError::Newer { .. }) => {}
            Err(error) => panic!("{}: {error:?}", error.sentence()),
        };
        let entry = ledger.entry(UID);
        if let Ok(Some(entry)) = &entry {
            assert_eq!(entry.claim.uid, UID, "a claim's file is about that claim");
            ledger.put_entry_quickly(entry).unwrap();
            assert_eq!(ledger.entry(UID).unwrap().as_ref(), Some(entry));
        }
        fine(entry.map(|found| found.is_some()));
        let ownership: Result<Option<Ownership>, _> = ledger.ownership("0000:81:00.2".parse().unwrap());
        fine(ownership.map(|found| found.is_some()));
        fine(ledger.attachment(UID).map(|found| found.is_some()));
        fine(ledger.current_sandbox("pod-0").map(|found| found.is_some()));
        fine(ledger.book().map(|book| book.pools.is_empty()));
        fine(ledger.unclean().map(|all| all.is_empty()));
        fine(ledger.attachments().map(|all| all.is_empty()));
        fine(ledger.owned().map(|all| all.is_empty()));
        let again = ledger.survey(BOOT).unwrap();
        assert_eq!(again.quarantined, [""; 0], "what is aside stays aside");
        let strays: Vec<PathBuf> = files(root.path())
            .into_iter()
            .filter(|path| !path.starts_with(&durable) && !path.starts_with(&boot))
            .collect();
        assert!(strays.is_empty(), "files outside of the ledger: {strays:?}");
    }

    /// The place's number, and the file as it is.
    pub fn ledger_files(input: &[u8]) {
        let Some((place, text)) = input.split_first() else { return };
        survives(PLACES[usize::from(*place) % PLACES.len()], text);
    }

    /// The body of a file whose checksum is right, in each place.
    pub fn ledger_bodies(input: &[u8]) {
        let Ok(body) = serde_json::from_slice::<Value>(input) else { return };
        let text = text_of(body).unwrap();
        for place in PLACES {
            survives(place, text.as_bytes());
        }
    }
}
