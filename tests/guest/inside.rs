//! The half in the guest: makes VFs, starts containerd, runs stories one after another, cleans up between them.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sriov_dra::device::PciAddress;

use crate::containerd::Containerd;
use crate::host::{Vf, make_vfs, pfs, run as run_program, vfs_of};
use crate::lab::{REBOOT, RESUME};
use crate::node;
use crate::release::{CURRENT, OLD};
use crate::stories::{ALL, Story};
use crate::suite::{RECORDS, Record, read_records, story_limit};

/// The second disk: the first holds the root.
const DISK_DEVICE: &str = "/dev/vdb";
/// Where it is mounted.
const DISK: &str = "/disk";

/// What a story is given.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The runtime, without any pod.
    pub runtime: Arc<Containerd>,
    /// All VFs of all PFs, on the host and unused.
    pub vfs: Vec<Vf>,
    /// After a reboot that this story asked for: what it left for itself.
    pub memory: Option<Value>,
    /// Its name.
    pub story: &'static str,
}

/// A story can't be told in this guest, for this reason; said, and not counted as held.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotHere(pub String);

/// A story that goes on after a reboot.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Resume {
    story: String,
    memory: Value,
}

impl Ground {
    /// Resets the machine as a loss of power does: nothing is ended, written back or unmounted. The story is told again
    /// in the next boot, with this as its memory.
    ///
    /// # Errors
    /// When the machine does not go down.
    pub async fn lose_power(&self, memory: Value) -> Result<Infallible> {
        let resume = Resume { story: self.story.to_owned(), memory };
        fs::write(Path::new("/share").join(REBOOT), serde_json::to_vec(&resume)?)?;
        println!("{}: the guest loses its power", self.story);
        fs::write("/proc/sysrq-trigger", "b")?;
        tokio::time::sleep(Duration::from_secs(60)).await;
        bail!("the guest did not reset")
    }

    /// The VFs of the first PF.
    pub fn of_one_pf(&self) -> Vec<Vf> {
        self.vfs.iter().copied().filter(|vf| vf.pf == self.vfs[0].pf).collect()
    }
}

/// Runs stories by name; the exit code is 1 if one of them did not hold, 2 if they could not be run.
pub fn run(names: &str) -> ExitCode {
    let stories: Vec<&Story> =
        ALL.iter().filter(|story| names.split(',').any(|name| name == story.name)).collect();
    let done = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no tokio runtime")
        .and_then(|runtime| runtime.block_on(tell_all(&stories)));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            println!("guest: {error:#}");
            diagnostics();
            ExitCode::from(2)
        }
    }
}

async fn tell_all(stories: &[&Story]) -> Result<bool> {
    let began = Instant::now();
    let count = stories.first().context("no story of that name")?.shape.vfs;
    load_modules()?;
    let resume: Option<Resume> = match fs::read(Path::new("/share").join(RESUME)) {
        Ok(text) => Some(serde_json::from_slice(&text)?),
        Err(_) => None,
    };
    mount_disk(resume.is_none())?;
    let told_before = read_records(&Path::new("/share").join(RECORDS));
    let pfs = pfs()?;
    // The driver sleeps most of the time while it makes VFs, and containerd starts meanwhile.
    let making = tokio::task::spawn_blocking({
        let pfs = pfs.clone();
        move || make_vfs(&pfs, count)
    });
    let runtime = Arc::new(Containerd::start(&CURRENT).await?);
    // What a story loses with the power shall be its own, not the image.
    run_program("sync", &["--file-system", DISK])?;
    let mut vfs = making.await??;
    println!(
        "{} PFs, {} VFs, containerd ready: {:.1} s",
        pfs.len(),
        vfs.len(),
        began.elapsed().as_secs_f32()
    );
    let mut records = File::options().create(true).append(true).open(format!("/share/{RECORDS}"))?;
    let mut all_held = true;
    for story in stories.iter().filter(|story| !told_before.contains_key(story.name)) {
        let began = Instant::now();
        println!("{} ...", story.name);
        let memory = resume.as_ref().filter(|resume| resume.story == story.name);
        let memory = memory.map(|resume| resume.memory.clone());
        let ground = Ground { runtime: Arc::clone(&runtime), vfs: vfs.clone(), memory, story: story.name };
        let told = tell(story, ground).await;
        let not_here =
            told.as_ref().err().and_then(|error| error.downcast_ref::<NotHere>()).map(|why| why.0.clone());
        let mut failure = told.err().filter(|_| not_here.is_none()).map(|error| format!("{error:#}"));
        if let Some(failure) = &failure {
            println!("{}: {failure}", story.name);
            diagnostics();
        }
        if let Err(error) = runtime.remove_all().await {
            failure.get_or_insert(format!("clean-up after it: {error:#}"));
        }
        println!(
            "{}: {} ({:.1} s)",
            story.name,
            match (&failure, &not_here) {
                (Some(_), _) => "FAILED",
                (None, Some(_)) => "left out",
                (None, None) => "ok",
            },
            began.elapsed().as_secs_f32()
        );
        if failure.is_some() || !intact(&vfs) {
            // The next story shall not pay for this one.
            vfs = tokio::task::spawn_blocking({
                let pfs = pfs.clone();
                move || make_vfs(&pfs, count)
            })
            .await??;
        }
        all_held &= failure.is_none();
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let record = Record { story: story.name.to_owned(), failure, not_here, millis };
        writeln!(records, "{}", serde_json::to_string(&record)?)?;
    }
    Ok(all_held)
}

/// A story in its own task: a panic or the time limit ends it alone.
async fn tell(story: &Story, ground: Ground) -> Result<()> {
    let limit = story_limit()?;
    let mut task = tokio::spawn((story.tell)(ground));
    match tokio::time::timeout(limit, &mut task).await {
        Ok(joined) => joined.context("the story panicked")?,
        Err(_) => {
            task.abort();
            let _ = task.await;
            anyhow::bail!("the story did not end within {} s", limit.as_secs())
        }
    }
}

/// Mounts the disk, which outlives a reboot as `/var` does on a node.
fn mount_disk(fresh: bool) -> Result<()> {
    if fresh {
        run_program("mkfs.ext4", &["-q", "-F", DISK_DEVICE])?;
    }
    fs::create_dir_all(DISK)?;
    run_program("mount", &["-t", "ext4", DISK_DEVICE, DISK]).map(drop)
}

fn load_modules() -> Result<()> {
    let modules = ["igb", "igbvf", "8021q", "veth", "dummy", "ext4"];
    let status = Command::new("modprobe").arg("-a").args(modules).status().context("can't run modprobe")?;
    anyhow::ensure!(status.success(), "modprobe -a {}: {status}", modules.join(" "));
    Ok(())
}

/// The VFs are still the ones that were made (a story may have removed some).
fn intact(vfs: &[Vf]) -> bool {
    let mut pfs: Vec<PciAddress> = vfs.iter().map(|vf| vf.pf).collect();
    pfs.dedup();
    let now: Result<Vec<Vec<Vf>>> = pfs.into_iter().map(vfs_of).collect();
    now.is_ok_and(|now| now.concat() == vfs)
}

/// What one wants to see after a failure.
fn diagnostics() {
    let script = format!(
        "echo '--- agent'; tail -n 80 {}; echo '--- containerd'; for log in {} {}; do ! [ -e $log ] || tail -n 40 $log; done; \
         echo '--- links'; ip -details address show; echo '--- kernel'; dmesg | tail -n 30",
        node::LOG,
        OLD.log,
        CURRENT.log
    );
    match Command::new("sh").args(["-c", &script]).output() {
        Ok(done) => {
            print!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
        }
        Err(error) => println!("no diagnostics: {error}"),
    }
}
