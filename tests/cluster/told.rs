//! Stories are told one after the other, on either ground.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::stories::{ALL, On, Story};

/// For one story with its clean-up.
const STORY_LIMIT: Duration = Duration::from_secs(300);

/// The stories whose names contain one of the filters; all if there is none.
pub fn wanted(filter: &[String]) -> Vec<&'static Story> {
    let named = |story: &&Story| filter.is_empty() || filter.iter().any(|f| story.name.contains(f.as_str()));
    ALL.iter().filter(named).collect()
}

/// Starts the lab and tells the stories, but those with a reason against it; prints what `cargo test` would print.
///
/// # Errors
/// When the lab does not start.
pub async fn tell(
    lab: impl Future<Output = Result<Lab>>,
    stories: &[&Story],
    against: impl Fn(On) -> Option<&'static str>,
) -> Result<ExitCode> {
    let began = Instant::now();
    if stories.iter().all(|story| against(story.on).is_some()) {
        println!("\ntest result: ok. 0 passed; 0 failed; {} ignored", stories.len());
        return Ok(ExitCode::SUCCESS);
    }
    let mut lab = lab.await?;
    println!("cluster: {} is up after {:.1} s", lab.version, began.elapsed().as_secs_f32());
    println!("\nrunning {} tests", stories.len());
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for story in stories {
        if let Some(why) = against(story.on) {
            println!("test {} ... ignored, {why}", story.name);
            ignored += 1;
            continue;
        }
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
    lab.keep_logs();
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; {ignored} ignored ({:.0} s)",
        began.elapsed().as_secs_f32()
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
