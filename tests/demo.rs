//! The demonstration, as a user runs it: examples, the user's own claims, faulty ones. And what every command owes whoever
//! runs it: no colour where none is wanted, no privilege where none is needed.
//!
//! Needs root, or user namespaces; the command makes its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::Value;
use sriov_dra::host::sysfs::tree::{Card, Tree, VfPlan};

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sriov-dra")).arg("demo").args(arguments).output().unwrap()
}

fn told(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|fault| panic!("{fault}: {error}"))
}

fn claim(dir: &tempfile::TempDir, requests: &str, interface: &str) -> String {
    let path = dir.path().join("claim.yaml");
    let text = format!(
        "apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {{name: mine}}
spec:
  devices:
    requests: {requests}
    config:
    - opaque:
        driver: sriov-dra.io
        parameters: {{apiVersion: sriov-dra.io/v1alpha1, kind: VfConfig, interface: {interface}}}
"
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// How many files of examples are in a folder.
fn files(folder: &str, fits: fn(&str) -> bool) -> usize {
    let names =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".yaml") && fits(name)).count()
}

#[test]
fn every_example_gets_its_vfs_on_the_simulated_node_and_gives_them_back() {
    let output = demo(&["-o", "json"]);
    let told = told(&output);
    assert!(output.status.success(), "{told:#}");
    assert_eq!((&told["node"]["pfs"], &told["node"]["vfs"]), (&8.into(), &64.into()));
    assert_eq!(told["agent"]["devices"], 64);
    assert_eq!(told["end"]["left"].as_array().unwrap().len(), 0);
    let runs = told["runs"].as_array().unwrap();
    // VFs of the simulated node have no RDMA devices; the guest's stories run that one.
    let fits = |name: &str| name != "nccl.yaml";
    assert_eq!(
        runs.len(),
        files("examples", fits) + files("examples/rails", |name| !name.starts_with("16")),
        "an example is missing in the demonstration"
    );
    for pod in runs.iter().flat_map(|run| run["pods"].as_array().unwrap()) {
        assert_pod(pod);
    }
    for (file, rails) in
        [("rails/1-rail", 1), ("rails/8-rails", 8), ("rails/8-rails-1.36", 8), ("rails/8-rails-gpus", 8)]
    {
        let run = runs.iter().find(|run| run["file"] == format!("examples/{file}.yaml")).unwrap();
        assert_rails(&run["pods"][0], rails);
    }
}

#[test]
fn sixteen_rails_fit_on_a_node_that_has_them_and_not_on_one_that_has_eight() {
    let both =
        ["-f", "examples/rails/16-rails.yaml", "-f", "examples/rails/16-rails-1.36.yaml", "-o", "json"];
    let output = demo(&[&["--rails", "16"], &both[..]].concat());
    let tale = told(&output);
    assert!(output.status.success(), "{tale:#}");
    assert_eq!((&tale["node"]["pfs"], &tale["node"]["vfs"]), (&16.into(), &128.into()));
    for run in tale["runs"].as_array().unwrap() {
        assert_pod(&run["pods"][0]);
        assert_rails(&run["pods"][0], 16);
    }
    let output = demo(&both);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(told(&output)["end"]["left"].as_array().unwrap().len(), 0);
}

#[test]
fn on_a_node_of_one_rail_those_examples_run_that_need_no_more_and_get_their_vfs() {
    let output = demo(&["--rails", "1", "-o", "json"]);
    let tale = told(&output);
    assert!(output.status.success(), "{tale:#}");
    let runs = tale["runs"].as_array().unwrap();
    let ran = |file: &str| runs.iter().any(|run| run["file"] == format!("examples/{file}.yaml"));
    for (file, runs_here) in
        [("one-vf", true), ("rails/1-rail", true), ("two-vfs-distinct-pfs", false), ("rails/8-rails", false)]
    {
        assert_eq!(ran(file), runs_here, "{file}");
    }
    runs.iter().flat_map(|run| run["pods"].as_array().unwrap()).for_each(assert_pod);
}

/// The pod has an interface on each rail, each with an address of its own block; the agent's fabric is in the MACs.
fn assert_rails(pod: &Value, rails: usize) {
    let links = pod["links"].as_array().unwrap().iter().filter(|link| link["name"] != "lo");
    let on: BTreeSet<&str> = links.clone().map(|link| &link["hwAddr"].as_str().unwrap()[..14]).collect();
    let ipv4 = |link: &Value| {
        let addresses = link["addresses"].as_array().unwrap().iter();
        addresses.filter_map(Value::as_str).find(|text| text.starts_with("172.16.")).map(str::to_owned)
    };
    let addresses: BTreeSet<String> = links.filter_map(ipv4).collect();
    assert_eq!((on.len(), addresses.len()), (rails, rails), "{pod:#}");
}

fn assert_pod(pod: &Value) {
    let names: Vec<&Value> = pod["links"].as_array().unwrap().iter().map(|link| &link["name"]).collect();
    let status: Vec<&str> =
        pod["status"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(!status.is_empty() && pod["error"].is_null(), "{pod:#}");
    assert!(status.iter().all(|line| line.starts_with("Ready True")), "{pod:#}");
    let without_link = status.iter().filter(|line| line.contains("is on vfio-pci")).count();
    assert_eq!(names.len() - 1 + without_link, status.len(), "a line, and a link but for vfio: {pod:#}");
    assert_eq!(pod["returned"].as_array().unwrap().len(), status.len(), "all came back: {pod:#}");
}

#[test]
fn a_claim_of_ones_own_is_told_as_text_with_links_and_return() {
    let dir = tempfile::tempdir().unwrap();
    let file = claim(
        &dir,
        "[{name: vf, exactly: {deviceClassName: sriov-vf}}]",
        "{name: fabric, mtu: 4200, addresses: [10.5.0.1/24]}",
    );
    let output = demo(&["--claim", &file]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for part in [
        "gets demo-node/0000-3b-00-2",
        "fabric",
        "mtu 4200",
        "10.5.0.1/24",
        "Ready True",
        "ens1f0v0",
        "mtu 1500",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    assert!(!text.contains('\x1b'), "no colours where nobody looks");
}

#[test]
fn a_faulty_claim_is_explained_before_anything_is_built() {
    let dir = tempfile::tempdir().unwrap();
    let file = claim(&dir, "[{name: vf, exactly: {deviceClassName: sriov-vf}}]", "{mtuu: 4200}");
    let output = demo(&["-f", &file]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("interface.mtuu: unknown field") && error.contains("did you mean mtu?"),
        "{error}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn a_claim_that_does_not_fit_or_is_refused_by_the_node_ends_with_the_reason_and_status_1() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = r#"[{name: vf, exactly: {deviceClassName: sriov-vf, selectors: [{cel: {expression: 'device.attributes["sriov-dra.io"].pfName == "nosuch"'}}]}}]"#;
    let file = claim(&dir, nowhere, "{}");
    let output = demo(&["-f", &file, "-o", "json"]);
    let tale = told(&output);
    assert_eq!(
        (output.status.code(), &tale["runs"][0]["pods"][0]["links"]),
        (Some(1), &Value::Array(Vec::new()))
    );
    let file = claim(&dir, "[{name: vf, exactly: {deviceClassName: sriov-vf}}]", "{mtu: 9999}");
    let output = demo(&["-f", &file, "-o", "json"]);
    let tale = told(&output);
    assert_eq!(output.status.code(), Some(1));
    let error = tale["runs"][0]["pods"][0]["error"].as_str().unwrap();
    assert!(error.contains("interface.mtu 9999 is above the MTU 9000 of PF ens1f0"), "{error}");
    assert_eq!(tale["end"]["left"].as_array().unwrap().len(), 0);
}

#[test]
fn a_pod_whose_claims_are_not_there_or_misspelt_is_wrong_input() {
    let dir = tempfile::tempdir().unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  resourceClaims: [{name: net, resourceClaimName: mine}]\n  containers: [{name: c, resources: {claims: [{name: CLAIM}]}}]\n";
    let claim = "---\napiVersion: resource.k8s.io/VERSION\nkind: KIND\nmetadata: {name: mine}\nspec: {devices: {requests: [{name: vf, exactly: {deviceClassName: sriov-vf}}]}}\n";
    for (text, expected) in [
        (pod.replace("CLAIM", "net"), "uses the ResourceClaim mine, which nothing defines"),
        (
            pod.replace("CLAIM", "nets") + &claim.replace("VERSION", "v1").replace("KIND", "ResourceClaim"),
            "spec.containers[0].resources.claims[0].name: nets is none of spec.resourceClaims (net)",
        ),
        (
            pod.replace("CLAIM", "net") + &claim.replace("VERSION", "v1").replace("KIND", "ResourceClame"),
            "kind: ResourceClame is none of ResourceClaim, ResourceClaimTemplate, DeviceClass, ResourceSlice",
        ),
        (
            pod.replace("CLAIM", "net")
                + &claim.replace("resource.k8s.io/VERSION", "v1").replace("KIND", "ResourceClaim2"),
            "document 2 (ResourceClaim2 mine) was passed over",
        ),
    ] {
        let path = dir.path().join("claim.yaml");
        std::fs::write(&path, text).unwrap();
        let output = demo(&["-f", path.to_str().unwrap()]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(expected), "{expected:?} is missing in: {error}");
        assert!(output.stdout.is_empty(), "nothing was built");
    }
}

const REQUEST: &str = "[{name: vf, exactly: {deviceClassName: sriov-vf}}]";

#[test]
fn wrong_names_and_wrong_selectors_are_told_before_anything_is_built() {
    let dir = tempfile::tempdir().unwrap();
    let file = claim(&dir, REQUEST, "{}");
    let good = std::fs::read_to_string(&file).unwrap();
    let selector = "selectors: [{cel: {expression: 'device.driver.startWith(\"s\")'}}]";
    for (text, expected) in [
        (
            good.replace("name: mine", "name: My_Claim"),
            "(ResourceClaim My_Claim): metadata.name: \"My_Claim\" is no name",
        ),
        (format!("{good}---\n{good}"), "metadata.name: \"mine\" is the name of "),
        (
            good.replace("deviceClassName: sriov-vf", &format!("deviceClassName: sriov-vf, {selector}")),
            "selectors[0].cel.expression: CEL expression \"device.driver.startWith(\\\"s\\\")\" calls startWith()",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = demo(&["-f", &file]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(expected), "{expected:?} is missing in: {error}");
        assert!(!error.contains("ApiError"), "{error}");
        assert!(output.stdout.is_empty(), "nothing was built");
    }
}

#[test]
fn the_same_names_in_two_files_and_in_made_up_pods_are_no_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let file = claim(&dir, REQUEST, "{}");
    let good = std::fs::read_to_string(&file).unwrap();
    let template = format!(
        "apiVersion: resource.k8s.io/v1\nkind: ResourceClaimTemplate\nmetadata: {{name: mine}}\n\
         spec: {{spec: {{devices: {{requests: {REQUEST}}}}}}}\n"
    );
    let config = good.replace("driver: sriov-dra.io", "driver: sriov-dra.oi");
    std::fs::write(&file, format!("{config}---\n{template}")).unwrap();
    let output = demo(&["-f", &file, "-f", &file, "-o", "json"]);
    let tale = told(&output);
    assert!(output.status.success(), "{tale:#}");
    for run in tale["runs"].as_array().unwrap() {
        let pods: Vec<&str> =
            run["pods"].as_array().unwrap().iter().map(|pod| pod["pod"].as_str().unwrap()).collect();
        assert_eq!(pods, ["default/demo-mine", "default/demo-mine-2"]);
        let notes = run["notes"].to_string();
        assert!(notes.contains("config[0] is for driver sriov-dra.oi, not sriov-dra.io"), "{notes}");
    }
}

#[test]
fn a_claim_of_two_pods_is_refused_to_the_second_with_the_way_out_and_all_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = claim(&dir, REQUEST, "{}");
    let mut text = std::fs::read_to_string(&file).unwrap();
    for pod in ["a", "b"] {
        text += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}}}\n\
             spec: {{containers: [], resourceClaims: [{{name: net, resourceClaimName: mine}}]}}\n"
        );
    }
    std::fs::write(&file, text).unwrap();
    let output = demo(&["-f", &file, "-o", "json"]);
    let tale = told(&output);
    assert_eq!(output.status.code(), Some(1), "{tale:#}");
    let error = tale["runs"][0]["pods"][1]["error"].as_str().unwrap();
    assert!(error.starts_with("claim default/mine belongs to pod default/a already"), "{error}");
    assert_eq!(tale["runs"][0]["pods"][0]["error"], Value::Null);
    assert_eq!(tale["end"]["left"].as_array().unwrap().len(), 0);
}

/// What a command shows on a terminal.
fn on_a_terminal(arguments: &str, no_color: Option<&str>) -> String {
    let mut command = Command::new("script");
    let run = format!("{} {arguments}", env!("CARGO_BIN_EXE_sriov-dra"));
    command.args(["-qec", &run, "/dev/null"]).current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("NO_COLOR");
    if let Some(text) = no_color {
        command.env("NO_COLOR", text);
    }
    let output = command.stdin(std::process::Stdio::null()).output().expect("script (Debian: bsdutils)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// ECMA-48 "select graphic rendition": `ESC [ … m`. Other sequences move the cursor.
fn colours(text: &str) -> usize {
    let is_colour =
        |rest: &str| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m');
    text.split("\x1b[").skip(1).filter(|rest| is_colour(rest)).count()
}

#[test]
fn terminals_get_colour_unless_no_color_is_set_in_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let file = claim(&dir, REQUEST, "{}");
    let log = format!(
        "node --node-name n --sysfs-root {0}/none --kubelet-dir {0}/kubelet --run-dir {0}/run --cdi-dir {0}/cdi",
        dir.path().display()
    );
    for (arguments, shows) in [
        (format!("demo -f {file}"), "Ready True"),
        (format!("explain -f {file} --slices tests/allocator/slices.yaml"), "can be allocated"),
        (log, "none"),
    ] {
        let coloured = on_a_terminal(&arguments, None);
        assert!(coloured.contains(shows) && colours(&coloured) > 0, "{arguments}: {coloured}");
        assert!(colours(&on_a_terminal(&arguments, Some(""))) > 0, "an empty NO_COLOR is none: {arguments}");
        let plain = on_a_terminal(&arguments, Some("1"));
        assert!(plain.contains(shows) && colours(&plain) == 0, "{arguments}: {plain}");
    }
    let inventory = on_a_terminal("inventory", None);
    assert!(inventory.contains("SR-IOV") || inventory.contains("PF"), "{inventory}");
    assert_eq!(colours(&inventory), 0, "it has none at all");
}

/// The command without any capability, whoever runs the tests.
fn unprivileged(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_sriov-dra");
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--bounding-set=-all", "--inh-caps=-all", program]);
        setpriv
    } else {
        Command::new(program)
    };
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("setpriv (util-linux)")
}

#[test]
fn looking_takes_no_privilege_and_what_only_root_may_see_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let node = Tree::new()
        .card(Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core").vfs(2, |_, vf| vf))
        .build()
        .unwrap();
    let sysfs = node.root().display().to_string();
    let kubelet = tempfile::tempdir().unwrap();
    let kubelet_dir = kubelet.path().display().to_string();
    let look = ["--sysfs-root", &sysfs, "--kubelet-dir", &kubelet_dir];
    let inventory = |run: &dyn Fn(&[&str]) -> Output| {
        let output = run(&[&["inventory", "-o", "json"], &look[..]].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{error}");
        (serde_json::from_slice::<Value>(&output.stdout).unwrap(), error)
    };
    let (seen, notes) = inventory(&unprivileged);
    assert_eq!(seen["vfs"].as_array().unwrap().len(), 2);
    assert_eq!(notes, "", "nothing is hidden");
    let with_all_rights =
        |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_sriov-dra")).args(arguments).output().unwrap();
    assert_eq!(inventory(&with_all_rights).0, seen);

    let ledger = kubelet.path().join("plugins/sriov-dra.io/vf");
    std::fs::create_dir_all(&ledger).unwrap();
    std::fs::set_permissions(&ledger, std::fs::Permissions::from_mode(0o000)).unwrap();
    let (again, notes) = inventory(&unprivileged);
    assert_eq!(again, seen);
    assert!(notes.contains("which VFs are in claims only root can see"), "{notes}");
    assert!(notes.contains("Permission denied") && notes.contains("sudo shows them"), "{notes}");
    let explained = unprivileged(&[&["explain", "-f", "examples/one-vf.yaml"], &look[..]].concat());
    let text = String::from_utf8(explained.stdout).unwrap();
    assert_eq!(explained.status.code(), Some(0), "{text}");
    assert!(text.contains("note: which VFs are in claims only root can see"), "{text}");
    std::fs::set_permissions(&ledger, std::fs::Permissions::from_mode(0o755)).unwrap();

    let node = Tree::new()
        .card(Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core").vfs(1, |_, _| VfPlan::vfio()))
        .build()
        .unwrap();
    let sysfs = node.root().display().to_string();
    let output = unprivileged(&["inventory", "--sysfs-root", &sysfs, "--kubelet-dir", &kubelet_dir]);
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(notes.contains("which VFs on vfio-pci a process has open only root can see"), "{notes}");
}

#[test]
fn a_temporary_folder_where_no_program_may_run_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let file = claim(&dir, "[{name: vf, exactly: {deviceClassName: sriov-vf}}]", "{name: fabric}");
    let noexec = dir.path().join("tmp");
    std::fs::create_dir(&noexec).unwrap();
    let script = "mount -t tmpfs -o noexec none \"$1\" && TMPDIR=$1 exec \"$2\" demo --claim \"$3\" -o json";
    let output = Command::new("unshare")
        .args([
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            noexec.to_str().unwrap(),
            env!("CARGO_BIN_EXE_sriov-dra"),
            &file,
        ])
        .output()
        .unwrap();
    let told = told(&output);
    assert!(output.status.success() && told["ok"] == true, "{told:#}");
    assert_eq!(std::fs::read_dir(&noexec).unwrap().count(), 0);
}
