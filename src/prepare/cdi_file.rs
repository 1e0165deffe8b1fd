//! CDI files: written whole or not at all, and removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cdi::{self, CdiError, Spec};
use crate::host::age::is_older;
use crate::host::disk;

/// Writes the claim's spec into `dir`, which is made if missing. Returns the file's path.
///
/// Runtimes read the folder at any moment and only `*.json` and `*.yaml` in it, so the content appears under another
/// ending and gets its name by one rename. No fsync: the folder is on tmpfs, and every Prepare writes the file anew.
/// One writer per claim at a time is the caller's to ensure.
///
/// Errors: a spec that no runtime would load (nothing is written then), and every failed file operation.
pub fn write(dir: &Path, driver: &str, claim_uid: &str, spec: &Spec) -> Result<PathBuf, CdiError> {
    spec.validate()?;
    let mut text = serde_json::to_vec_pretty(spec)?;
    text.push(b'\n');
    let path = dir.join(cdi::file_name(driver, claim_uid));
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    disk::make_folder(dir).map_err(failed("make", dir))?;
    // A left-over of a killed process with our number.
    let _ = disk::remove(&temporary);
    let written = disk::make(&temporary, &text, Some(0o644));
    written.and_then(|_| disk::rename(&temporary, &path)).map_err(|source| {
        // What failed is what the caller must hear of; a left-over with this ending is never read.
        let _ = disk::remove(&temporary);
        failed("write", &path)(source)
    })?;
    Ok(path)
}

/// Whether the claim's file says just this.
pub fn is_written(dir: &Path, driver: &str, claim_uid: &str, spec: &Spec) -> bool {
    let text = fs::read_to_string(dir.join(cdi::file_name(driver, claim_uid)));
    text.is_ok_and(|text| cdi::parse(&text).is_ok_and(|there| there == *spec))
}

/// Removes the claim's file. A file or folder that isn't there is fine: `false`.
pub fn remove(dir: &Path, driver: &str, claim_uid: &str) -> Result<bool, CdiError> {
    let path = dir.join(cdi::file_name(driver, claim_uid));
    match disk::remove(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", &path)(error)),
    }
}

/// Removes what killed writers of this driver left. Others may be writing at this very moment.
pub fn remove_half_written(dir: &Path, driver: &str) {
    let prefix = cdi::file_name(driver, "");
    let prefix = prefix.trim_end_matches(".json");
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(prefix) && name.ends_with(".tmp"));
        if ours && is_older(&entry.path(), Duration::from_secs(60)) {
            let _ = disk::remove(&entry.path());
        }
    }
}

/// UIDs of the claims that have a file in `dir`, sorted. No folder, no claims.
pub fn claim_uids(dir: &Path, driver: &str) -> Result<Vec<String>, CdiError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", dir)(error)),
    };
    let mut uids = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("read", dir))?.file_name();
        uids.extend(
            name.to_str().and_then(|name| cdi::claim_uid_of_file_name(driver, name)).map(str::to_owned),
        );
    }
    uids.sort();
    Ok(uids)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CdiError {
    let path = path.display().to_string();
    move |source| CdiError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::ClaimId;
    use crate::prepare::cdi::{HookCommand, RequestEnv, spec_for};
    use std::os::unix::fs::PermissionsExt;

    const DRIVER: &str = "sriov-dra.io";
    const UID: &str = "6f3c2f1e-0a57-4f5b-9d61-0d7ad5a3c0aa";

    fn spec(driver: &str) -> Spec {
        let claim = ClaimId { uid: UID.into(), namespace: "team-a".into(), name: "worker-vf".into() };
        let request = RequestEnv { request: "main".into(), ..RequestEnv::default() };
        let hook = HookCommand { path: "/hook".into(), args: Vec::new(), timeout_s: 15 };
        spec_for(&claim, "vf", driver, &[request], &hook)
    }

    #[test]
    fn a_file_is_written_whole_over_an_older_one_and_removed_once() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("var/run/cdi");
        let path = dir.join(format!("sriov-dra.io-vf_{UID}.json"));
        assert_eq!(claim_uids(&dir, DRIVER).unwrap(), Vec::<String>::new());
        assert!(!remove(&dir, DRIVER, UID).unwrap());

        for _ in 0..2 {
            assert_eq!(write(&dir, DRIVER, UID, &spec(DRIVER)).unwrap(), path);
            assert_eq!(cdi::parse(&fs::read_to_string(&path).unwrap()).unwrap(), spec(DRIVER));
        }
        fs::write(dir.join("other.json"), "{}").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "no temporary file is left");
        assert_eq!(claim_uids(&dir, DRIVER).unwrap(), [UID]);

        assert!(remove(&dir, DRIVER, UID).unwrap());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn a_spec_that_no_runtime_would_load_is_not_written() {
        let root = tempfile::tempdir().unwrap();
        let error = write(root.path(), "9.example", UID, &spec("9.example")).unwrap_err().to_string();
        assert!(error.starts_with("CDI spec 9.example/vf: kind must be vendor/class"), "{error}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_what_killed_writers_of_this_driver_left_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let names = [
            "sriov-dra.io-vf_x.7.tmp",
            "sriov-dra.io-vf_x.8.tmp",
            "other-vf_x.7.tmp",
            "sriov-dra.io-vf_x.json",
        ];
        let files = names.map(|name| root.path().join(name));
        for (n, file) in files.iter().enumerate() {
            let age = Duration::from_secs(if n == 1 { 0 } else { 3600 });
            fs::File::create(file).unwrap().set_modified(std::time::SystemTime::now() - age).unwrap();
        }
        remove_half_written(root.path(), DRIVER);
        assert_eq!(files.map(|file| file.exists()), [false, true, true, true]);
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind_and_names_the_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(cdi::file_name(DRIVER, UID));
        fs::create_dir(&path).unwrap();
        let error = write(root.path(), DRIVER, UID, &spec(DRIVER)).unwrap_err();
        assert_eq!(error.to_string(), format!("can't write {}", path.display()));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "only the folder that was in the way");
    }
}
