//! The half on the machine: one guest for each shape of hardware, side by side, a line for each story.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::{Guest, Shape, hand_in};
use crate::stories::{ALL, SHAPES, Story, soak};
use crate::watch::{MINUTES, PICTURE, asked};
use crate::{AGENT_ENV, GUEST_ENV};

/// A story's end as the guest wrote it to the share.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// Which story.
    pub story: String,
    /// `None`: it held.
    pub failure: Option<String>,
    /// Why it could not be told.
    pub not_here: Option<String>,
    /// Milliseconds, in the guest's time.
    pub millis: u64,
}

/// File on the share with a [`Record`] as JSON per line.
pub const RECORDS: &str = "records";

/// An emulated processor is 20 to 50 times slower than a real one.
const STORY_LIMIT: Duration = Duration::from_secs(600);
/// Boot, containerd's start, images.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// Time for one story in the guest, on both sides: a soak may be asked to take longer.
///
/// # Errors
/// When what is asked for is no time.
pub fn story_limit() -> Result<Duration> {
    Ok(STORY_LIMIT.saturating_add(asked()?.unwrap_or_default()))
}

/// Runs the stories whose names contain one of the filters (no filter: all), prints what `cargo test` would print.
///
/// # Errors
/// When the image is not there or nothing matches.
pub fn run(image: &Path, filter: &[String]) -> Result<ExitCode> {
    for part in ["vmlinux", "initrd.cpio", "root.sqfs"] {
        ensure!(image.join(part).is_file(), "the guest image at {} has no {part}", image.display());
    }
    let wanted = |story: &&Story| filter.is_empty() || filter.iter().any(|f| story.name.contains(f.as_str()));
    let stories: Vec<&Story> = ALL.iter().filter(wanted).collect();
    ensure!(!stories.is_empty(), "no story's name contains {}", filter.join(" or "));
    println!("\nrunning {} tests", stories.len());
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    std::thread::scope(|scope| {
        let guests: Vec<_> = SHAPES
            .iter()
            .filter_map(|shape| {
                let of_shape: Vec<&Story> = stories.iter().copied().filter(|s| s.shape == *shape).collect();
                (!of_shape.is_empty()).then(|| scope.spawn(move || in_guest(image, *shape, &of_shape)))
            })
            .collect();
        for guest in guests {
            let ends = guest.join().unwrap_or_else(|_| vec![End::Failed]);
            let count = |wanted| ends.iter().filter(|end| **end == wanted).count();
            failed += count(End::Failed);
            passed += count(End::Held);
            ignored += count(End::LeftOut);
        }
    });
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; {ignored} ignored");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How a story ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Held,
    Failed,
    LeftOut,
}

/// Boots one guest, returns for each story how it ended.
fn in_guest(image: &Path, shape: Shape, stories: &[&Story]) -> Vec<End> {
    let told = try_in_guest(image, shape, stories);
    let (records, broken) = match told {
        Ok(records) => (records, None),
        Err((records, error)) => (records, Some(format!("{error:#}"))),
    };
    let mut ends = Vec::new();
    for story in stories {
        match records.get(story.name) {
            Some(Record { failure: None, not_here: Some(why), .. }) => {
                // CI has what every story needs.
                let failed = std::env::var_os("CI").is_some_and(|ci| ci == "true");
                println!("test {} ... {}: {why}", story.name, if failed { "FAILED" } else { "ignored" });
                ends.push(if failed { End::Failed } else { End::LeftOut });
            }
            Some(Record { failure: None, millis, .. }) => {
                println!("test {} ... ok ({:.1} s)", story.name, seconds(*millis));
                ends.push(End::Held);
            }
            Some(Record { failure: Some(why), millis, .. }) => {
                println!("test {} ... FAILED ({:.1} s)\n    {why}", story.name, seconds(*millis));
                ends.push(End::Failed);
            }
            None => {
                println!("test {} ... FAILED\n    the guest ended before the story did", story.name);
                ends.push(End::Failed);
            }
        }
    }
    if let Some(broken) = broken {
        println!("guest {}: {broken}", shape.name);
        ends.push(End::Failed);
    }
    ends
}

/// By story.
pub type Records = BTreeMap<String, Record>;

fn try_in_guest(image: &Path, shape: Shape, stories: &[&Story]) -> Result<Records, (Records, anyhow::Error)> {
    let none = |error: anyhow::Error| (Records::new(), error);
    let share = tempfile::tempdir().context("no temporary folder").map_err(none)?;
    let prepare = || -> Result<Duration> {
        hand_in(&std::env::current_exe()?, share.path(), "guest-stories")?;
        let agent = env::var_os(AGENT_ENV).unwrap_or_else(|| env!("CARGO_BIN_EXE_sriov-dra").into());
        hand_in(Path::new(&agent), share.path(), "sriov-dra")?;
        story_limit()
    };
    let limit = prepare().map_err(none)?;
    let names: Vec<&str> = stories.iter().map(|s| s.name).collect();
    // Of a life that is told again.
    let handed_in = |name: &&str| std::env::var(name).is_ok_and(|text| text.parse::<u64>().is_ok());
    let numbers: String = ["CHAOS_SEED", "CHAOS_ACTS"]
        .into_iter()
        .filter(handed_in)
        .map(|name| format!("{name}={} ", std::env::var(name).unwrap_or_default()))
        .collect();
    // From the share every page would be fetched one by one.
    let minutes = env::var(MINUTES).map_or(String::new(), |minutes| format!("{MINUTES}={minutes}"));
    let command = format!(
        "mkdir -p /rw/bin && cp /share/guest-stories /share/sriov-dra /rw/bin/ && \
         {numbers}{minutes} {GUEST_ENV}={} exec /rw/bin/guest-stories\n",
        names.join(",")
    );
    let count = u32::try_from(stories.len()).unwrap_or(u32::MAX);
    let guest = Guest {
        shape,
        image,
        share: share.path(),
        timeout: BOOT_LIMIT.saturating_add(limit.saturating_mul(count)),
    };
    let outcome = guest.run(&command, &mut |line| println!("[{}] {line}", shape.name));
    let records = read_records(&share.path().join(RECORDS));
    let picture = share.path().join(soak::PICTURE);
    if let Some(to) = env::var_os(PICTURE)
        && picture.exists()
    {
        match fs::copy(&picture, &to).with_context(|| format!("can't write {}", Path::new(&to).display())) {
            Ok(_) => {}
            Err(error) => return Err((records, error)),
        }
    }
    match outcome {
        Ok(outcome) => {
            println!(
                "guest {}: {:.0} s, {} PFs, {} VFs each",
                shape.name,
                outcome.took.as_secs_f32(),
                shape.pfs,
                shape.vfs
            );
            // A story's failure is exit code 1 and already in the records.
            if outcome.code == 0 || (outcome.code == 1 && records.values().any(|r| r.failure.is_some())) {
                Ok(records)
            } else {
                Err((records, anyhow::anyhow!("the half inside ended with exit code {}", outcome.code)))
            }
        }
        Err(error) => Err((records, error)),
    }
}

/// Ends of stories so far; empty if there are none.
pub fn read_records(file: &Path) -> Records {
    let text = fs::read_to_string(file).unwrap_or_default();
    let records = text.lines().filter_map(|line| serde_json::from_str::<Record>(line).ok());
    records.map(|record| (record.story.clone(), record)).collect()
}

fn seconds(millis: u64) -> f64 {
    Duration::from_millis(millis).as_secs_f64()
}
