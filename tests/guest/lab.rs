//! Boots a QEMU guest with SR-IOV PFs, runs one command in it, hands back output and exit code.
//!
//! Emulated without KVM by default: many machines of CI have none, and what counts here is not speed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Accelerator for QEMU, e.g. `kvm` where /dev/kvm can boot a stock kernel.
const ACCEL_ENV: &str = "SRIOV_DRA_GUEST_ACCEL";

/// File on the share by which a guest that resets itself asks to be booted again.
pub const REBOOT: &str = "reboot";
/// The same file, as the guest finds it after that.
pub const RESUME: &str = "resume";
/// The second disk's file; the first is the root.
const DISK: &str = "disk";
/// Bytes; it takes only what is written.
const DISK_SIZE: u64 = 2 << 30;

/// The hardware of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// For the output.
    pub name: &'static str,
    /// `igb` PFs, each below its own root port; 7 VFs each are possible.
    pub pfs: u32,
    /// VFs to make on each PF before the first story.
    pub vfs: u32,
    /// Two NUMA nodes, the PFs spread over both.
    pub numa: bool,
    /// An Intel IOMMU (VT-d), switched on; VFs of all PFs but the last have groups of their own.
    pub iommu: bool,
    /// Each RDMA device is in one network namespace, from the boot on.
    pub rdma: bool,
    /// MiB.
    pub memory: u32,
}

/// What came out of a guest.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code of the command.
    pub code: i32,
    /// From the first start of QEMU to its last end.
    pub took: Duration,
}

/// A guest to be booted.
#[derive(Debug)]
pub struct Guest<'a> {
    /// Its hardware.
    pub shape: Shape,
    /// Folder with vmlinux, initrd.cpio, root.sqfs.
    pub image: &'a Path,
    /// Folder that is `/share` inside, read and written by both sides. The disk's file is in it as well.
    pub share: &'a Path,
    /// After this QEMU is killed.
    pub timeout: Duration,
}

impl Guest<'_> {
    /// Runs a shell command in a fresh guest; each line of its output goes to `line` as it comes. A guest that resets
    /// itself and has left [`REBOOT`] is booted again with the same disk, where the command finds [`RESUME`].
    ///
    /// # Errors
    /// When QEMU can't start, ends by itself without an exit code from the command, or runs into the timeout; the
    /// guest's console is part of the error. QEMU's own abort (once in 80 boots, while BARs move) is retried once.
    pub fn run(&self, command: &str, line: &mut dyn FnMut(&str)) -> Result<Outcome> {
        let began = Instant::now();
        let mut aborted = false;
        File::create(self.share.join(DISK))?.set_len(DISK_SIZE)?;
        loop {
            match self.boot(command, line) {
                Ok(Some(code)) => return Ok(Outcome { code, took: began.elapsed() }),
                // What the guest left stays until the next reboot: a boot that aborts can be tried again.
                Ok(None) => fs::rename(self.share.join(REBOOT), self.share.join(RESUME))?,
                Err(error) if error.downcast_ref::<Aborted>().is_some() && !aborted => {
                    line("guest: QEMU aborted; booting once more");
                    aborted = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The exit code; none if the guest reset itself and wants to be booted again.
    fn boot(&self, command: &str, line: &mut dyn FnMut(&str)) -> Result<Option<i32>> {
        let console = self.share.join("console");
        let exit = self.share.join("exit");
        if exit.exists() {
            fs::remove_file(&exit)?;
        }
        fs::write(self.share.join("command"), command)?;
        let mut child = Command::new("qemu-system-x86_64")
            .args(self.arguments(&console))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(self.share.join("qemu-errors"))?)
            .spawn()
            .context("can't start qemu-system-x86_64 (Debian: qemu-system-x86 8.0 or newer)")?;
        let output = child.stdout.take().context("QEMU's output")?;
        let child = Arc::new(Mutex::new(child));
        let late = self.watch(&child);
        let mut reader = BufReader::new(output);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes)? > 0 {
            line(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']));
            bytes.clear();
        }
        // The output is closed, so QEMU is at its end; only the lock keeps the watcher from a reused process number.
        let status = lock(&child).wait()?;
        let ran_late = late.join().unwrap_or(false);
        let tail = || {
            let text =
                |file: &Path| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
            let (console, errors) = (text(&console), text(&self.share.join("qemu-errors")));
            let last: Vec<&str> = console.lines().rev().take(30).collect();
            format!("{errors}\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        if ran_late {
            bail!("the guest did not end within {} s; its console:\n{}", self.timeout.as_secs(), tail());
        }
        if status.signal() == Some(6) {
            return Err(anyhow::Error::new(Aborted).context(tail()));
        }
        if !status.success() {
            bail!("QEMU ended with {status}:\n{}", tail());
        }
        match fs::read_to_string(&exit) {
            Ok(code) => Ok(Some(code.trim().parse()?)),
            Err(_) if self.share.join(REBOOT).exists() => Ok(None),
            Err(_) => {
                bail!("the guest ended without an exit code from its command; its console:\n{}", tail())
            }
        }
    }

    /// Kills QEMU when its time is over; the thread's result says whether it had to.
    fn watch(&self, child: &Arc<Mutex<Child>>) -> std::thread::JoinHandle<bool> {
        let child = Arc::clone(child);
        let end = Instant::now() + self.timeout;
        std::thread::spawn(move || {
            loop {
                match lock(&child).try_wait() {
                    Ok(None) => {}
                    Ok(Some(_)) | Err(_) => return false,
                }
                if Instant::now() >= end {
                    return lock(&child).kill().is_ok();
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        })
    }

    fn arguments(&self, console: &Path) -> Vec<String> {
        let Shape { name: _, pfs, vfs: _, numa, iommu, rdma, memory } = self.shape;
        let image = |file: &str| self.image.join(file).display().to_string();
        let accel = std::env::var(ACCEL_ENV).unwrap_or_else(|_| "tcg,thread=single,tb-size=512".to_owned());
        let mut all = Vec::new();
        let mut add = |option: &str, value: String| all.extend([option.to_owned(), value]);
        add("-accel", accel);
        // 57-bit addresses cost the emulator a fifth level of page walks.
        add("-cpu", "max,la57=off".to_owned());
        // Two virtual processors are slower here than one, and QEMU 10.0 aborts with two now and then.
        add("-smp", "1".to_owned());
        add("-m", format!("{memory}M"));
        add("-machine", if iommu { "q35,kernel-irqchip=off" } else { "q35" }.to_owned());
        if iommu {
            add("-device", "intel-iommu,intremap=on,caching-mode=on".to_owned());
        }
        add("-kernel", image("vmlinux"));
        add("-initrd", image("initrd.cpio"));
        add("-chardev", format!("file,id=console,path={}", console.display()));
        add("-serial", "chardev:console".to_owned());
        add("-device", "virtio-serial-pci,bus=pcie.0,addr=0x1c".to_owned());
        add("-chardev", "stdio,id=output,signal=off".to_owned());
        add("-device", "virtconsole,chardev=output".to_owned());
        add("-fsdev", format!("local,id=share,path={},security_model=none", self.share.display()));
        add("-device", "virtio-9p-pci,bus=pcie.0,addr=0x1d,fsdev=share,mount_tag=share".to_owned());
        add("-device", "virtio-rng-pci,bus=pcie.0,addr=0x1e".to_owned());
        add("-drive", format!("if=none,id=root,file={},format=raw,readonly=on", image("root.sqfs")));
        add("-device", "virtio-blk-pci,bus=pcie.0,addr=0x1b,multifunction=on,drive=root".to_owned());
        let disk = self.share.join(DISK);
        // What the guest has written is there after its reset; the machine itself is not going to lose power.
        add("-drive", format!("if=none,id=disk,file={},format=raw,cache=unsafe", disk.display()));
        add("-device", "virtio-blk-pci,bus=pcie.0,addr=0x1b.1,drive=disk".to_owned());
        if numa {
            for node in 0..2 {
                add("-object", format!("memory-backend-ram,id=memory{node},size={}M", memory / 2));
                let cpus = if node == 0 { ",cpus=0" } else { "" };
                add("-numa", format!("node,nodeid={node}{cpus},memdev=memory{node}"));
                let bus = 64 * (node + 1);
                add("-device", format!("pxb-pcie,id=numa{node},bus_nr={bus},bus=pcie.0,numa_node={node}"));
            }
        }
        for pf in 0..pfs {
            let bus = if numa { format!("numa{}", pf % 2) } else { "pcie.0".to_owned() };
            let slot = pf + 1;
            // Without access control of its port a card is one IOMMU group, as on many a mainboard: the last one is.
            let acs = if iommu && slot == pfs { ",disable-acs=on" } else { "" };
            add("-device", format!("pcie-root-port,id=port{pf},bus={bus},chassis={slot},slot={slot}{acs}"));
            add(
                "-device",
                format!("igb,id=pf{pf},bus=port{pf},mac=52:54:00:00:{:02x}:{:x}0", pf / 16, pf % 16),
            );
        }
        let mut kernel =
            "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on tsc=reliable no_timer_check \
                          cryptomgr.notests nokaslr init_on_alloc=0 pci=realloc"
                .to_owned();
        if iommu {
            kernel.push_str(" intel_iommu=on");
        }
        if rdma {
            // modprobe hands it to the module, as it does where an administrator writes it there.
            kernel.push_str(" ib_core.netns_mode=0");
        }
        add("-append", kernel);
        for flag in ["-nodefaults", "-no-reboot"] {
            all.push(flag.to_owned());
        }
        all.extend(["-display".to_owned(), "none".to_owned()]);
        all
    }
}

/// QEMU ended by SIGABRT.
#[derive(Debug, thiserror::Error)]
#[error("QEMU aborted")]
struct Aborted;

fn lock(child: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    // A poisoned lock means a panic while it was held, and nothing under it can be half done.
    child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Puts an executable on the share, without the debug information that would only travel.
///
/// # Errors
/// When it can't be copied; a missing `strip` only makes it larger.
pub fn hand_in(executable: &Path, share: &Path, name: &str) -> Result<PathBuf> {
    let to = share.join(name);
    let stripped = Command::new("strip").arg("-o").arg(&to).arg(executable).stderr(Stdio::null()).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(executable, &to).with_context(|| format!("can't copy {}", executable.display()))?;
    }
    File::options().append(true).open(&to)?.flush()?;
    Ok(to)
}
