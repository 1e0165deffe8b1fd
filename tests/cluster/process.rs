//! Programs: run to their end, or started and kept.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// A program that runs until it is dropped.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// Starts it; what it prints is added to `<logs>/<name>.log`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(name: &'static str, mut command: Command, logs: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(logs.join(format!("{name}.log")))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        Ok(Self { name, child: child.with_context(|| format!("can't start {name}"))? })
    }

    /// Sends it a signal, by its name without `SIG`.
    ///
    /// # Errors
    /// When it is no more.
    pub fn signal(&self, name: &str) -> Result<()> {
        run("kill", &[&format!("-{name}"), &self.child.id().to_string()]).map(drop)
    }

    /// Tells it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it does not within 20 s.
    pub fn stop(&mut self) -> Result<()> {
        self.signal("TERM")?;
        let end = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "{} does not end", self.name);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// That it still runs.
    ///
    /// # Errors
    /// When it ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended with {status}", self.name),
            None => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // On the way out; the namespaces' end takes what resists.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program, returns what it printed.
///
/// # Errors
/// With its error output if it can't be run or fails.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    run_command(Command::new(program).args(arguments))
}

/// The same with a command of the caller's.
///
/// # Errors
/// As [`run`].
pub fn run_command(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("can't run {command:?}"))?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{command:?}: {}: {}", done.status, errors.trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Looks every 100 ms until there is something.
///
/// # Errors
/// After `limit`: what was waited for, and why the last look found nothing.
pub async fn wait_for<T>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() >= end => {
                return Err(error.context(format!("waited {} s for {what}", limit.as_secs())));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
