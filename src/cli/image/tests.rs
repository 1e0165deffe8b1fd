//! The archive parsed back by a reader that knows the format from the other side, and by the machine's own `tar`.

use std::collections::BTreeMap;
use std::process::Command;

use super::*;

/// Path to (type, mode, link, content) of each member; checks every header's checksum.
fn members(tar: &[u8]) -> Vec<(String, u8, u32, String, Vec<u8>)> {
    let text = |field: &[u8]| String::from_utf8(field.split(|b| *b == 0).next().unwrap().to_vec()).unwrap();
    let octal = |field: &[u8]| u64::from_str_radix(text(field).trim(), 8).unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    while tar[at..at + 512].iter().any(|b| *b != 0) {
        let header = &tar[at..at + 512];
        let sum: u64 = header
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) })
            .sum();
        assert_eq!(sum, octal(&header[148..155]), "checksum of {}", text(&header[..100]));
        assert_eq!(&header[257..265], b"ustar\x0000");
        let size = usize::try_from(octal(&header[124..136])).unwrap();
        found.push((
            text(&header[..100]),
            header[156],
            u32::try_from(octal(&header[100..108])).unwrap(),
            text(&header[157..257]),
            tar[at + 512..at + 512 + size].to_vec(),
        ));
        at += 512 + size.next_multiple_of(512);
    }
    assert_eq!(tar.len() - at, 1024, "two empty blocks end an archive");
    found
}

/// A minimal ELF header: `machine`, and one program header of type `segment`.
fn elf(machine: u16, segment: u32) -> Vec<u8> {
    let mut elf = vec![0; 64 + 56];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18..20].copy_from_slice(&machine.to_le_bytes());
    elf[32..40].copy_from_slice(&64u64.to_le_bytes());
    elf[54..56].copy_from_slice(&56u16.to_le_bytes());
    elf[56..58].copy_from_slice(&1u16.to_le_bytes());
    elf[64..68].copy_from_slice(&segment.to_le_bytes());
    elf
}

#[test]
fn every_digest_in_the_archive_leads_to_the_blob_with_that_checksum_and_the_executable_is_in_the_layer() {
    let executable = elf(62, 1);
    let bytes = archive(&driver_image("localhost/sriov-dra:0.1.0", "amd64", executable.clone())).unwrap();
    let files: BTreeMap<String, Vec<u8>> = members(&bytes).into_iter().map(|m| (m.0, m.4)).collect();
    let json = |path: &str| -> Value { serde_json::from_slice(&files[path]).unwrap() };
    let follow = |descriptor: &Value| -> Vec<u8> {
        let sha = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let blob = files[&format!("blobs/sha256/{sha}")].clone();
        let sum: String = Sha256::digest(&blob).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(sum, sha);
        assert_eq!(descriptor["size"], blob.len());
        blob
    };

    assert_eq!(json("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }));
    let listed = &json("index.json")["manifests"][0];
    assert_eq!(listed["annotations"]["io.containerd.image.name"], "localhost/sriov-dra:0.1.0");
    assert_eq!(listed["annotations"]["org.opencontainers.image.ref.name"], "0.1.0");
    let manifest: Value = serde_json::from_slice(&follow(listed)).unwrap();
    let config: Value = serde_json::from_slice(&follow(&manifest["config"])).unwrap();
    let layer = follow(&manifest["layers"][0]);
    assert_eq!(
        config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"],
        "the layer is not compressed"
    );
    assert_eq!(config["config"]["Entrypoint"], json!(["/sriov-dra"]));
    assert_eq!(config["architecture"], "amd64");
    assert_eq!(members(&layer), [("sriov-dra".to_owned(), b'0', 0o755, String::new(), executable)]);

    let docker = &json("manifest.json")[0];
    assert_eq!(docker["RepoTags"], json!(["localhost/sriov-dra:0.1.0"]));
    assert_eq!(files[docker["Layers"][0].as_str().unwrap()], layer);
    assert_eq!(serde_json::from_slice::<Value>(&files[docker["Config"].as_str().unwrap()]).unwrap(), config);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let make = || archive(&driver_image("localhost/sriov-dra:0.1.0", "amd64", elf(62, 1))).unwrap();
    assert_eq!(make(), make());
}

#[test]
fn folders_files_and_links_survive_the_machines_own_tar() {
    let mut tar = Tar::new();
    for entry in [
        Entry::dir("bin", 0o755),
        Entry::file("bin/tool", 0o750, vec![7; 513]),
        Entry::symlink("bin/sh", "tool"),
        Entry::file("empty", 0o644, ""),
    ] {
        tar.push(&entry).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.tar");
    fs::write(&file, tar.finish()).unwrap();
    let done = Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(folder.path()).status().unwrap();
    assert!(done.success());
    assert_eq!(fs::read(folder.path().join("bin/tool")).unwrap(), vec![7; 513]);
    assert_eq!(fs::read_link(folder.path().join("bin/sh")).unwrap(), Path::new("tool"));
    assert_eq!(fs::read(folder.path().join("empty")).unwrap(), b"");
}

#[test]
fn names_that_do_not_fit_a_header_are_refused_and_leave_the_archive_as_it_was() {
    let mut tar = Tar::new();
    let long = "x".repeat(101);
    assert!(tar.push(&Entry::file(&long, 0o644, "")).unwrap_err().to_string().contains("room for 100 bytes"));
    assert!(tar.push(&Entry::symlink("a", long)).is_err());
    assert_eq!(tar.finish(), vec![0; 1024]);
}

#[test]
fn a_file_that_can_not_run_in_an_empty_image_is_refused_with_the_reason() {
    for (content, says) in [
        (b"#!/bin/sh\n".to_vec(), "no little-endian 64-bit ELF"),
        (elf(62, 3), "linked dynamically"),
        (elf(40, 1), "ELF machine 40"),
        (elf(62, 1)[..40].to_vec(), "cut off"),
        (elf(62, 1)[..66].to_vec(), "cut off"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("binary");
        let output = folder.path().join("image.tar");
        fs::write(&binary, content).unwrap();
        let args =
            ImageArgs { output: output.clone(), tag: "localhost/a:1".to_owned(), binary: Some(binary) };
        let error = run(&args).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(!output.exists(), "a refused image leaves no archive");
    }
    assert_eq!(architecture(&elf(183, 1)), Ok("arm64"));
}

#[test]
fn tags_follow_the_grammar_of_image_references() {
    for good in ["localhost/sriov-dra:0.1.0", "example.com:5000/team/sriov-dra:v1", "10.0.0.1/a_b:A.b-c"] {
        assert!(check_tag(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        ":1",
        "sriov-dra",
        "sriov-dra:1",
        "team/a:1",
        "localhost/a",
        "localhost/a:",
        "localhost/Upper:1",
        "localhost/a b:1",
        "localhost/-a:1",
        "localhost/a/:1",
        "localhost/a:.1",
        "localhost/a:x/y",
        "example.com:5000/a",
        "-x.y/a:1",
    ] {
        let error = check_tag(bad).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{bad:?} is not an image name")), "{error}");
    }
}

#[test]
fn this_static_executable_makes_an_image_and_the_archive_takes_its_place_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("image.tar");
    let args = ImageArgs { output: output.clone(), tag: "localhost/a:1".to_owned(), binary: None };
    run(&args).unwrap();
    assert!(members(&fs::read(&output).unwrap()).iter().any(|m| m.0 == "index.json"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}
