//! The command as users run it.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use super::*;

const NOBODY: u32 = 65534;

fn doctor(node: &Node) -> Command {
    doctor_at(Path::new(env!("CARGO_BIN_EXE_sriov-dra")), node)
}

fn doctor_at(program: &Path, node: &Node) -> Command {
    let mut command = Command::new(program);
    command
        .arg("doctor")
        .arg("--sysfs-root")
        .arg(node.tree.root())
        .arg("--node-root")
        .arg(node.folder.path());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_exit_status_is_that_of_the_worst_line_and_bad_usage_has_its_own() {
    // The runtime of a tree can't be asked: unknown, and so no clean bill.
    let node = Node::good();
    assert_eq!(doctor(&node).output().unwrap().status.code(), Some(3));
    node.mode(HOOK, 0o644);
    assert_eq!(doctor(&node).output().unwrap().status.code(), Some(4));
    assert_eq!(doctor(&node).arg("--no-such-flag").output().unwrap().status.code(), Some(2));
    let bad = doctor(&node).args(["--devices", "device."]).output().unwrap();
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("--devices"), "{bad:?}");
}

#[test]
fn text_and_json_say_the_same_and_sentences_are_at_most_120_columns_wide() {
    let node = Node::good();
    node.mode(HOOK, 0o644);
    let text = said(&doctor(&node).output().unwrap());
    let json: serde_json::Value =
        serde_json::from_str(&said(&doctor(&node).args(["-o", "json"]).output().unwrap())).unwrap();
    assert_eq!((&json["formatVersion"], &json["worst"]), (&1.into(), &"fault".into()), "{json:#}");
    let lines = json["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 20);
    for line in lines {
        let check = line["check"].as_str().unwrap();
        assert!(
            text.lines().any(|printed| printed.split_whitespace().nth(1) == Some(check)),
            "{check} in\n{text}"
        );
        for command in line["mend"].as_array().into_iter().flatten() {
            assert!(text.contains(command.as_str().unwrap()), "{command} in\n{text}");
        }
    }
    assert!(text.contains("FAULT    hook "), "{text}");
    let is_command = |line: &str| line.trim_start().starts_with(['$', '#']);
    let wide = text.lines().find(|line| !is_command(line) && line.chars().count() > 120);
    assert_eq!(wide, None);
}

#[test]
fn a_user_without_rights_is_told_what_could_not_be_looked_at() {
    let node = Node::good();
    node.write("var/lib/kubelet/device-plugins/kubelet_internal_checkpoint", "{}");
    node.mode("var/lib/kubelet/device-plugins", 0o700);
    node.mode("var/lib/kubelet/plugins", 0o700);
    node.mode("dev/kmsg", 0o600);
    for folder in ["", "sys", "proc"] {
        node.mode(folder, 0o755);
    }
    // The build's folder may be in a home that others can't enter.
    let program = node.path("sriov-dra");
    let built = env!("CARGO_BIN_EXE_sriov-dra");
    fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).unwrap();
    let output = match doctor_at(&program, &node).uid(NOBODY).gid(NOBODY).args(["-o", "json"]).output() {
        Err(error)
            if error.kind() == std::io::ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root() =>
        {
            eprintln!("skipped: only root can become a user without rights");
            return;
        }
        output => output.unwrap(),
    };
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let json: serde_json::Value = serde_json::from_str(&said(&output)).unwrap();
    let notes = json["notes"].to_string();
    assert!(
        notes.contains("kernel's log can't be read") && notes.contains("in claims only root can see"),
        "{notes}"
    );
    let unknown: Vec<&str> = json["lines"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["state"] == "unknown")
        .map(|line| line["check"].as_str().unwrap())
        .collect();
    assert!(["hook", "device-plugin"].iter().all(|check| unknown.contains(check)), "{json:#}");
    assert!(!unknown.contains(&"iommu") && !unknown.contains(&"memlock"), "{json:#}");
}
