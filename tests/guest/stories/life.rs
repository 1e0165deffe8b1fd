//! A random life of a node with real VFs: drivers, settings, namespaces and vfio are the kernel's. The same acts, faults and
//! invariants as in `tests/chaos`.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::host::{make_vfs, pfs};
use crate::igb::{Igb, set_mtu};
use crate::inside::Ground;
use crate::life::workload::{Stage, run};

const VFS: Stage = Stage { ground: || Rc::new(Igb::new()), shrinking: Duration::from_secs(60) };

pub async fn a_random_life_on_real_vfs_leaves_nothing_behind(ground: Ground) -> Result<()> {
    // Handed in by the half outside.
    let number = |variable: &str| std::env::var(variable).ok()?.parse::<u64>().ok();
    let seed = number("CHAOS_SEED").unwrap_or(1);
    let count = usize::try_from(number("CHAOS_ACTS").unwrap_or(200))?;
    println!("CHAOS_SEED={seed}");
    let started = Instant::now();
    let told = tokio::task::spawn_blocking(move || run(&VFS, seed, count)).await;
    // With the names that the stories after this one know.
    let of_each = u32::try_from(ground.of_one_pf().len())?;
    let anew = tokio::task::spawn_blocking(move || {
        let pfs = pfs()?;
        set_mtu(&pfs, "1500");
        make_vfs(&pfs, of_each)
    });
    let anew = anew.await?;
    let told = told.context("it went wrong: see above")?;
    anew?;
    println!(
        "seed {seed}: {count} acts, {} calls that changed something, {} recoveries, {:.1} s",
        told.well,
        told.rests,
        started.elapsed().as_secs_f32()
    );
    ensure!(told.well > count / 20, "hardly anything was done: {}", told.well);
    Ok(())
}
