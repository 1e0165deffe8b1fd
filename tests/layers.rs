//! Who may import whom: reads `src/` and holds it against the tables below.
//!
//! The tables are the design (docs/design.md says why). A room that is not in them, an import that is not in them, and a
//! crate that a pure file must not know are failures. Comments, strings and test code don't count; the doubles behind
//! the feature `testing` do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each room and the rooms it may import, besides itself.
const ROOMS: &[(&str, &[&str])] = &[
    ("device", &[]),
    ("host", &["device"]),
    ("inventory", &["host", "device"]),
    ("policy", &["device"]),
    ("address", &["device"]),
    ("controller", &["policy", "address", "device"]),
    ("claim", &["device"]),
    ("prepare", &["claim", "address", "host", "device"]),
    ("nccl", &["host", "device"]),
    // Wire only: app joins it with the rest.
    ("kubelet", &[]),
    ("attach", &["prepare", "claim", "nccl", "host", "device"]),
    // Wire only, too.
    ("runtime", &[]),
    ("doctor", &["host", "device"]),
    ("observe", &[]),
    ("allocate", &["device", "policy"]),
    // The doubles of kubelet and runtime are beside what they stand in for; the agent is reached over its sockets.
    ("demo", &["allocate", "attach", "kubelet", "prepare", "claim", "address", "host", "device", "policy"]),
    // The one composition root: everything but the commands that call it.
    (
        "app",
        &[
            "address",
            "attach",
            "claim",
            "controller",
            "demo",
            "allocate",
            "device",
            "doctor",
            "host",
            "inventory",
            "kubelet",
            "nccl",
            "observe",
            "policy",
            "prepare",
            "runtime",
        ],
    ),
    ("cli", &["address", "allocate", "app", "claim", "demo", "device", "doctor", "observe", "policy"]),
    ("main", &["cli"]),
];

/// What `lib.rs` holds besides rooms. Anybody may use it.
const ROOT_ITEMS: &[&str] = &["DEFAULT_DRIVER_NAME"];

/// Rooms and files that do nothing but compute, and the dependencies they may name. Any other crate in Cargo.toml is
/// forbidden there, those of tomorrow included, and so is what [`WORLD`] lists. The first place that fits a file counts.
const PURE: &[(&str, &[&str])] = &[
    ("device", &["ipnet", "serde", "thiserror"]),
    // The parser descends as deep as an expression nests: it gets a thread for the sake of its stack.
    ("policy/cel", &["cel", "serde", "std::thread", "thiserror"]),
    // Its own module is called like the crate.
    ("policy", &["cel", "ipnet", "serde", "thiserror"]),
    ("address", &["ipnet", "k8s_openapi", "serde", "serde_json", "thiserror"]),
    ("controller/blocks/plan.rs", &[]),
    ("claim", &["ipnet", "k8s_openapi", "serde", "serde_json", "thiserror"]),
    ("controller/dropped.rs", &["k8s_openapi", "serde_json"]),
    ("controller/pace.rs", &[]),
    ("controller/slices.rs", &["k8s_openapi"]),
    ("controller/split.rs", &["k8s_openapi"]),
    ("controller/view.rs", &["k8s_openapi", "serde_json"]),
    // Judges facts of `host::survey`: data, though its room is not.
    ("doctor", &["serde"]),
    // As above: `host::topology`.
    ("nccl", &["ipnet"]),
    ("prepare/cdi.rs", &[]),
    ("prepare/cdi_spec.rs", &["serde", "serde_json", "thiserror"]),
    ("prepare/plan.rs", &["ipnet", "thiserror"]),
    ("prepare/rdma.rs", &["thiserror"]),
    ("prepare/settings.rs", &["thiserror"]),
    ("prepare/steps.rs", &[]),
    ("prepare/vfio.rs", &["thiserror"]),
    // Imports `host::NetnsId`: two numbers that name a namespace. Data, though its room is not.
    ("prepare/records.rs", &["ipnet", "serde"]),
    ("attach/bundle.rs", &["serde", "serde_json"]),
    ("attach/report.rs", &["ipnet", "serde"]),
    ("attach/routing.rs", &["ipnet"]),
    ("attach/variables.rs", &[]),
    ("attach/status_body.rs", &["jiff", "serde_json"]),
];

/// Parts of std that touch the world. Addresses are data, sockets are not.
const WORLD: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::SystemTime",
];

#[test]
fn every_room_imports_only_what_the_table_allows() {
    let faults: Vec<String> =
        sources().iter().flat_map(|(file, text)| forbidden_rooms(file, &paths(&tokens(text)))).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn pure_files_know_neither_the_world_nor_crates_that_do() {
    let dependencies = dependencies();
    assert!(dependencies.contains("tokio") && dependencies.contains("k8s_openapi"), "{dependencies:?}");
    let sources = sources();
    for (place, _) in PURE {
        assert!(
            sources.keys().any(|file| within(file, place)),
            "the table names src/{place}, which is not there"
        );
    }
    let faults: Vec<String> = sources
        .iter()
        .flat_map(|(file, text)| forbidden_crates(file, &paths(&tokens(text)), &dependencies))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// What an agent remembers by is changed in one place, where tests can have it fail and end the process.
#[test]
fn files_of_prepare_and_attach_are_changed_through_the_disk_alone() {
    const CHANGES: [&str; 8] = [
        "write",
        "rename",
        "remove_file",
        "remove_dir",
        "hard_link",
        "copy",
        "create_dir_all",
        "File::create",
    ];
    let rooms = ["prepare/", "attach/", "host/flock.rs"];
    // Sockets of the doubles.
    let other = |file: &str| file.ends_with("fake.rs") || file.contains("/tests");
    let mut faults = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| rooms.iter().any(|room| file.starts_with(room))) {
        if other(file) {
            continue;
        }
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let found = CHANGES.iter().filter(|change| text.contains(&format!("fs::{change}(")));
        faults.extend(found.map(|change| format!("src/{file} calls fs::{change}: see host::disk")));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_table_lists_every_room_once_and_has_no_circle() {
    let listed: Vec<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    let there: BTreeSet<String> =
        sources().keys().map(|file| room_of(file).to_owned()).filter(|room| room != "lib").collect();
    assert_eq!(listed.iter().map(|room| (*room).to_owned()).collect::<BTreeSet<_>>(), there);
    assert_eq!(listed.len(), there.len(), "a room is listed twice");

    // Rooms whose imports are all settled are settled; whoever is left over sits in a circle.
    let mut settled = BTreeSet::new();
    while let Some((room, _)) = ROOMS
        .iter()
        .find(|(room, imports)| !settled.contains(room) && imports.iter().all(|room| settled.contains(room)))
    {
        settled.insert(*room);
    }
    let circle: Vec<_> = listed.iter().filter(|room| !settled.contains(*room)).collect();
    assert!(circle.is_empty(), "these rooms import each other in a circle: {circle:?}");
}

#[test]
fn the_design_document_shows_the_same_table() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/design.md")).unwrap();
    for (room, imports) in ROOMS.iter().filter(|(room, _)| *room != "main") {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{room}` |")));
        let shown = row.and_then(|row| row.trim_end_matches('|').rsplit('|').next()).map(str::trim);
        let outside = ["app", "cli", "main"];
        let mut all: Vec<&str> =
            ROOMS.iter().map(|(room, _)| *room).filter(|room| !outside.contains(room)).collect();
        let mut wanted = imports.to_vec();
        all.sort_unstable();
        wanted.sort_unstable();
        let wanted = match wanted {
            none if none.is_empty() => "nothing".to_owned(),
            most if most == all => "all but cli".to_owned(),
            _ => imports.join(", "),
        };
        assert_eq!(shown, Some(wanted.as_str()), "docs/design.md, the row of {room}");
    }
}

#[test]
fn a_forbidden_room_is_found_however_it_is_written() {
    for (file, text) in [
        ("policy/mod.rs", "use crate::host::Link;"),
        ("policy/mod.rs", "use crate::{device::{Vf, Pf}, host::Link};"),
        ("policy/mod.rs", "pub use crate::host;"),
        ("policy/mod.rs", "fn f() { let link = crate::host::find(); }"),
        ("policy/mod.rs", "use super::host::Link;"),
        ("policy/cel.rs", "use super::super::host::Link;"),
        ("policy/cel.rs", "use sriov_dra::host::Link;"),
        ("policy/cel.rs", "const A: &str = \"//\"; use crate::host; const C: char = '\"';"),
        ("policy/cel.rs", "#[cfg(test)] mod tests { fn f() {} } use crate::host;"),
        ("policy/cel.rs", "#[cfg(any(test, feature = \"testing\"))] use crate::host;"),
        ("policy/cel.rs", "use crate::*;"),
        ("kubelet/mod.rs", "use crate::attic::Thing;"),
    ] {
        assert_eq!(forbidden_rooms(file, &paths(&tokens(text))).len(), 1, "{file}: {text}");
    }
}

#[test]
fn what_is_allowed_or_said_or_only_tested_is_no_fault() {
    for text in [
        "use crate::device::{Vf, Pf}; use crate::policy::Rules; use super::Rules; use crate::DEFAULT_DRIVER_NAME;",
        "//! [`crate::host`]\n/// crate::host::Link\n/* crate::host /* crate::host */ crate::host */",
        "const A: &str = \"crate::host\"; const B: &str = r#\"a\" crate::host\"#; fn f<'a>(x: &'a str) {}",
        "#[cfg(test)]\nmod tests { use crate::host::fake; fn f() { if true { } } }",
        "#[cfg(test)] use crate::host::{fake}; #[cfg(test)] fn f(x: [u8; 3]) { crate::host::f() }",
        "pub(crate) fn f() { let host = 1; attach::host::f(); }",
    ] {
        assert_eq!(forbidden_rooms("policy/cel.rs", &paths(&tokens(text))), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn a_forbidden_crate_is_found_however_it_is_written() {
    let dependencies = dependencies();
    let faults = |text: &str| forbidden_crates("claim/mod.rs", &paths(&tokens(text)), &dependencies);
    for text in [
        "use tokio::sync::mpsc;",
        "use kube as k;",
        "fn f() { ::tonic::f() }",
        "use std::{fs, io};",
        "fn f() { std::fs::read(\"x\") }",
        "use std::net::{IpAddr, UdpSocket};",
        "use std::os::unix::net::UnixStream;",
        "fn f() { tracing::info!(\"x\") }",
    ] {
        assert_eq!(faults(text).len(), 1, "{text}");
    }
    for text in [
        "use std::net::IpAddr; use std::io; use ipnet::IpNet; use k8s_openapi::api::resource::v1::ResourceClaim;",
        "fn f() { let bytes = 1; let tokio = bytes; env!(\"CARGO_PKG_VERSION\") }",
    ] {
        assert_eq!(faults(text), Vec::<String>::new(), "{text}");
    }
    assert_eq!(
        forbidden_crates("kubelet/mod.rs", &paths(&tokens("use tokio::net;")), &dependencies),
        Vec::<String>::new(),
        "only pure places are bound"
    );
}

/// Every source file that is not a test, by its path below `src/`.
fn sources() -> BTreeMap<String, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders: Vec<PathBuf> = vec![src.clone()];
    let mut sources = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "tests" {
                folders.push(path);
            } else if path.is_file() && name.ends_with(".rs") && name != "tests.rs" {
                let below = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
                sources.insert(below, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert!(sources.len() > 50, "only {} files below src/", sources.len());
    sources
}

/// Names of the dependencies as code writes them.
fn dependencies() -> BTreeSet<String> {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_"));
    names.collect()
}

fn room_of(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

fn within(file: &str, place: &str) -> bool {
    file == place
        || file.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'))
        || file == format!("{place}.rs")
}

fn forbidden_rooms(file: &str, paths: &[Vec<String>]) -> Vec<String> {
    let room = room_of(file);
    if room == "lib" {
        return Vec::new();
    }
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("src/{file}: room {room} is not in the table of tests/layers.rs")];
    };
    // Modules between this file and the root: src/room/mod.rs is one, src/room/part.rs two.
    let depth = file.trim_end_matches("/mod.rs").trim_end_matches(".rs").split('/').count();
    let mut faults = Vec::new();
    for path in paths {
        let first = path.first().map(String::as_str);
        let climbed = path.iter().take_while(|part| *part == "super").count();
        let imported = match first {
            Some("crate" | "sriov_dra") => path.get(1),
            Some("super") if climbed >= depth => path.get(climbed),
            _ => continue,
        };
        let imported = imported.map_or("everything", String::as_str);
        let known = imported == room || allowed.contains(&imported) || ROOT_ITEMS.contains(&imported);
        if !known {
            let list = if allowed.is_empty() { "no other room".to_owned() } else { allowed.join(", ") };
            faults.push(format!(
                "src/{file}: {} is not for room {room}, which may import {list}",
                path.join("::")
            ));
        }
    }
    faults
}

fn forbidden_crates(file: &str, paths: &[Vec<String>], dependencies: &BTreeSet<String>) -> Vec<String> {
    let Some((place, allowed)) = PURE.iter().find(|(place, _)| within(file, place)) else {
        return Vec::new();
    };
    let mut faults = Vec::new();
    for path in paths {
        let name = path.join("::");
        let begins = |world: &str| {
            name.strip_prefix(world).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        let of_the_world = WORLD.iter().any(|world| begins(world) && !allowed.contains(world));
        let foreign =
            path.first().is_some_and(|head| dependencies.contains(head) && !allowed.contains(&head.as_str()));
        if of_the_world || foreign {
            faults.push(format!("src/{file}: {name} is not for src/{place}, which is pure"));
        }
    }
    faults
}

/// Words, `::` and single signs; comments, the insides of literals and items under `#[cfg(test)]` left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        match (at(i), at(i + 1)) {
            ('/', '/') => i += chars[i..].iter().take_while(|c| **c != '\n').count(),
            ('/', '*') => {
                let mut open = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (open, i) = (open + 1, i + 2),
                        ('*', '/') => (open, i) = (open - 1, i + 2),
                        _ => i += 1,
                    }
                    if open == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            ('"', _) => i = end_of_string(&chars, i + 1),
            ('\'', '\\') => {
                i += 3 + chars[(i + 3).min(chars.len())..].iter().take_while(|c| **c != '\'').count() + 1
            }
            ('\'', _) if at(i + 2) == '\'' => i += 3,
            (':', ':') => {
                tokens.push("::".to_owned());
                i += 2;
            }
            (c, _) if word(c) => {
                let length = chars[i..].iter().take_while(|c| word(**c)).count();
                let text: String = chars[i..i + length].iter().collect();
                i += length;
                let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
                if matches!(text.as_str(), "r" | "br" | "cr") && at(i + hashes) == '"' {
                    let close: Vec<char> =
                        std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                    i += hashes + 1;
                    while i < chars.len() && !chars[i..].starts_with(&close) {
                        i += 1;
                    }
                    i += close.len();
                } else {
                    tokens.push(text);
                }
            }
            (c, _) => {
                if !c.is_whitespace() {
                    tokens.push(c.to_string());
                }
                i += 1;
            }
        }
    }
    without_tests(&tokens)
}

fn end_of_string(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn without_tests(tokens: &[String]) -> Vec<String> {
    const TEST_ONLY: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if tokens[i..].iter().take(TEST_ONLY.len()).ne(TEST_ONLY.iter()) {
            kept.push(tokens[i].clone());
            i += 1;
            continue;
        }
        // The item ends with its block, or where there is none with its semicolon.
        i += TEST_ONLY.len();
        let mut depth = 0;
        while let Some(token) = tokens.get(i) {
            i += 1;
            match token.as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" => depth -= 1,
                "}" if depth == 1 => break,
                "}" => depth -= 1,
                ";" if depth == 0 => break,
                _ => {}
            }
        }
    }
    kept
}

/// Every path in the code, groups (`a::{b, c::d}`) taken apart. A lone word counts where it follows `use`.
fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let is_word = |token: &String| token.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let global = tokens[i] == "::"
            && !i.checked_sub(1).is_some_and(|before| is_word(&tokens[before]) || tokens[before] == ">");
        if !global && !is_word(&tokens[i]) {
            i += 1;
            continue;
        }
        let in_use = i.checked_sub(1).is_some_and(|before| tokens[before] == "use");
        let before = found.len();
        i = take_path(tokens, if global { i + 1 } else { i }, &[], &mut found);
        if !in_use && !global && found.len() == before + 1 && found[before].len() == 1 {
            found.pop();
        }
    }
    found
}

/// Reads one path or group from `i` on and returns where it ends.
fn take_path(tokens: &[String], mut i: usize, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(i).map(String::as_str) {
            Some("{") => {
                i += 1;
                while tokens.get(i).is_some_and(|token| token != "}") {
                    i = match tokens[i].as_str() {
                        "," => i + 1,
                        "as" => i + 2,
                        _ => take_path(tokens, i, &path, found).max(i + 1),
                    };
                }
                return i + 1;
            }
            Some(word) if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                path.push(word.to_owned());
                i += 1;
            }
            // A glob, or the generics of a turbofish.
            _ => {
                found.push(path);
                return i.max(1);
            }
        }
        if tokens.get(i).map(String::as_str) != Some("::") {
            found.push(path);
            return i;
        }
        i += 1;
    }
}
