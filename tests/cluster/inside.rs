//! The second half: makes the namespaces a machine, starts a cluster on it, tells the stories.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

use crate::assets::Assets;
use crate::lab::Lab;
use crate::outside::LEFT;
use crate::plane::SERVICE_ADDRESS;
use crate::process::run as run_program;
use crate::runtime;
use crate::stories::{ALL, Story};

/// Everything that has no usual path; in memory.
const FOLDER: &str = "/run/lab";
/// For one story with its clean-up.
const STORY_LIMIT: Duration = Duration::from_secs(180);
/// The kubelet writes these, and they are in no namespace.
const SYSCTLS: [&str; 5] = [
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Runs the stories whose names contain one of the filters (no filter: all), prints what `cargo test` would print.
///
/// # Errors
/// When the cluster does not start, or nothing matches.
pub fn run(assets: Assets, logs: &Path, filter: &[String]) -> Result<ExitCode> {
    let wanted = |story: &&Story| filter.is_empty() || filter.iter().any(|f| story.name.contains(f.as_str()));
    let stories: Vec<&Story> = ALL.iter().filter(wanted).collect();
    ensure!(!stories.is_empty(), "no story's name contains {}", filter.join(" or "));
    settle().context("the machine for the cluster can't be made")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let told = runtime.block_on(tell(assets, logs, &stories));
    fs::write(logs.join(LEFT), runtime::left().join("\n"))?;
    told
}

async fn tell(assets: Assets, logs: &Path, stories: &[&Story]) -> Result<ExitCode> {
    let began = Instant::now();
    let mut lab = Lab::start(assets, Path::new(FOLDER), logs).await?;
    println!("cluster: {} is up after {:.1} s", lab.version, began.elapsed().as_secs_f32());
    println!("\nrunning {} tests", stories.len());
    let (mut passed, mut failed) = (0, 0);
    for story in stories {
        let began = Instant::now();
        let told = async {
            let told = (story.tell)(&mut lab).await;
            // A story that did not hold must not spoil the next one; what it left is its own failure's fault.
            let cleaned = lab.clean_up().await.context("afterwards");
            told.and(cleaned)
        };
        let told = tokio::time::timeout(STORY_LIMIT, told).await;
        let took = began.elapsed().as_secs_f32();
        match told.unwrap_or_else(|_| Err(anyhow::anyhow!("not over after {} s", STORY_LIMIT.as_secs()))) {
            Ok(()) => {
                println!("test {} ... ok ({took:.1} s)", story.name);
                passed += 1;
            }
            Err(error) => {
                println!("test {} ... FAILED ({took:.1} s)\n    {error:#}", story.name);
                failed += 1;
            }
        }
    }
    lab.keep_logs().await;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored ({:.0} s)",
        began.elapsed().as_secs_f32()
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The usual places become this suite's own; what was there stays as it is, for everybody else.
fn settle() -> Result<()> {
    let tmpfs = |target: &str| {
        let none: Option<&str> = None;
        mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), none)
            .with_context(|| format!("tmpfs on {target}"))
    };
    let bind = |from: &Path, to: &str| {
        let none: Option<&str> = None;
        mount(Some(from), to, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("{} on {to}", from.display()))
    };
    tmpfs("/run")?;
    if fs::canonicalize("/var/run")? != Path::new("/run") {
        bind(Path::new("/run"), "/var/run")?;
    }
    tmpfs("/var/log")?;
    let folder = Path::new(FOLDER);
    for name in ["upper", "work", "kubelet", "sysctl"] {
        fs::create_dir_all(folder.join(name))?;
    }
    // The kubelet's folder need not exist here, and shall not come to exist.
    let options = format!("lowerdir=/var/lib,upperdir={FOLDER}/upper,workdir={FOLDER}/work");
    mount(Some("overlay"), "/var/lib", Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .context("overlay on /var/lib")?;
    fs::create_dir_all("/var/lib/kubelet")?;
    bind(&folder.join("kubelet"), "/var/lib/kubelet")?;
    // A file system of their own: the kubelet looks its folders up by their device.
    tmpfs(&format!("{FOLDER}/sysctl"))?;
    for sysctl in SYSCTLS {
        let (real, copy) =
            (Path::new("/proc/sys").join(sysctl), folder.join("sysctl").join(sysctl.replace('/', ".")));
        fs::write(&copy, fs::read(&real)?)?;
        bind(&copy, &real.display().to_string())?;
    }
    // As on a machine with systemd: pods can ask for mounts that come later.
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
    run_program("ip", &["link", "set", "lo", "up"])?;
    run_program("ip", &["address", "add", &format!("{SERVICE_ADDRESS}/32"), "dev", "lo"])?;
    Ok(())
}
