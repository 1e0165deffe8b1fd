//! The guest's own kernel seen from outside the driver: VFs made through sysfs, what they are like now by `ip`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sriov_dra::device::PciAddress;

use crate::held::Held;

/// A VF as this harness names it, from sysfs alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vf {
    /// Its PF.
    pub pf: PciAddress,
    /// N of `virtfnN`.
    pub index: u32,
    /// Its own address.
    pub pci: PciAddress,
}

/// What must be as before when a VF came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Interface name.
    pub name: String,
    /// Link-layer address.
    pub mac: String,
    /// Bytes.
    pub mtu: u64,
    /// Administratively up.
    pub up: bool,
    /// Alternative names, sorted.
    pub alt_names: Vec<String>,
    /// `ifalias`.
    pub alias: String,
    /// IP addresses but link-local ones.
    pub addresses: Vec<String>,
    /// Bound driver.
    pub driver: String,
}

fn device(pci: PciAddress) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(pci.to_string())
}

/// Runs a program, returns what it printed.
///
/// # Errors
/// With its error output if it can't be run or fails.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let done =
        Command::new(program).args(arguments).output().with_context(|| format!("can't run {program}"))?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "`{program} {}`: {}: {}", arguments.join(" "), done.status, errors.trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// PFs in the order of their addresses.
pub fn pfs() -> Result<Vec<PciAddress>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let entry = entry?;
        if entry.path().join("sriov_totalvfs").exists() {
            found.push(entry.file_name().to_string_lossy().parse()?);
        }
    }
    found.sort();
    Ok(found)
}

/// Makes `count` VFs on each PF, all PFs at once; removes the ones that are there. Brings the PFs up: VFs have no link
/// before that.
pub fn make_vfs(pfs: &[PciAddress], count: u32) -> Result<Vec<Vf>> {
    std::thread::scope(|scope| {
        let all: Vec<_> = pfs.iter().map(|pf| scope.spawn(move || make_vfs_of(*pf, count))).collect();
        let mut vfs = Vec::new();
        for made in all {
            vfs.extend(made.join().unwrap_or_else(|_| bail!("making VFs panicked"))?);
        }
        Ok(vfs)
    })
}

fn make_vfs_of(pf: PciAddress, count: u32) -> Result<Vec<Vf>> {
    let number = device(pf).join("sriov_numvfs");
    // Changing a number other than zero is EBUSY.
    fs::write(&number, "0").with_context(|| format!("can't remove the VFs of {pf}"))?;
    if let Some(name) = netdev(pf)? {
        run("ip", &["link", "set", &name, "up"])?;
    }
    fs::write(&number, count.to_string()).with_context(|| format!("can't make {count} VFs on {pf}"))?;
    let vfs = vfs_of(pf)?;
    ensure!(vfs.len() == count as usize, "{pf} has {} VFs instead of {count}", vfs.len());
    for vf in &vfs {
        wait_for(Duration::from_secs(10), &format!("a netdev of VF {}", vf.pci), || {
            Ok(netdev(vf.pci)?.is_some())
        })?;
    }
    Ok(vfs)
}

/// A PF's VFs by index.
pub fn vfs_of(pf: PciAddress) -> Result<Vec<Vf>> {
    let mut vfs = Vec::new();
    for index in 0.. {
        let Ok(target) = fs::read_link(device(pf).join(format!("virtfn{index}"))) else {
            break;
        };
        let name = target.file_name().context("virtfn link without a name")?.to_string_lossy().into_owned();
        vfs.push(Vf { pf, index, pci: name.parse()? });
    }
    Ok(vfs)
}

/// The name of a function's netdev in the host's namespace.
pub fn netdev(pci: PciAddress) -> Result<Option<String>> {
    match fs::read_dir(device(pci).join("net")) {
        Ok(mut entries) => {
            Ok(entries.next().transpose()?.map(|e| e.file_name().to_string_lossy().into_owned()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The driver that a function is bound to.
///
/// # Errors
/// When sysfs can't be read.
pub fn driver(pci: PciAddress) -> Result<Option<String>> {
    match fs::read_link(device(pci).join("driver")) {
        Ok(target) => Ok(target.file_name().map(|name| name.to_string_lossy().into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What each of these VFs is like on the host, by address.
///
/// # Errors
/// Names the VF that has no netdev here.
pub fn facts(vfs: &[Vf]) -> Result<BTreeMap<PciAddress, Facts>> {
    let links: Value = serde_json::from_str(&run("ip", &["-json", "-details", "address", "show"])?)?;
    let links = links.as_array().context("ip printed no list")?;
    let mut all = BTreeMap::new();
    for vf in vfs {
        let name = netdev(vf.pci)?.with_context(|| format!("VF {} has no netdev on the host", vf.pci))?;
        let link = links.iter().find(|l| l["ifname"] == name.as_str());
        let link = link.with_context(|| format!("ip does not list {name} of VF {}", vf.pci))?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut alt_names: Vec<String> =
            list(&link["altnames"]).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        alt_names.sort();
        let addresses = list(&link["addr_info"]);
        let addresses = addresses
            .iter()
            .filter(|a| a["scope"] != "link")
            .map(|a| format!("{}/{}", a["local"].as_str().unwrap_or_default(), a["prefixlen"]));
        all.insert(
            vf.pci,
            Facts {
                mac: link["address"].as_str().unwrap_or_default().to_owned(),
                mtu: link["mtu"].as_u64().unwrap_or_default(),
                up: list(&link["flags"]).iter().any(|flag| flag == "UP"),
                alias: link["ifalias"].as_str().unwrap_or_default().to_owned(),
                alt_names,
                addresses: addresses.collect(),
                driver: driver(vf.pci)?.unwrap_or_default(),
                name,
            },
        );
    }
    Ok(all)
}

/// A link in a pod's namespace; `lo` is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name there.
    pub name: String,
    /// The PCI function it belongs to.
    pub pci: Option<PciAddress>,
    /// Bytes.
    pub mtu: u64,
    /// Administratively up.
    pub up: bool,
    /// IPv4 addresses with prefix length.
    pub addresses: Vec<String>,
}

/// Links in a named network namespace.
///
/// # Errors
/// What `ip` says.
pub fn links_in(netns: &str) -> Result<Vec<Link>> {
    let links: Value =
        serde_json::from_str(&run("ip", &["-netns", netns, "-json", "-details", "address", "show"])?)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let link = |link: &Value| Link {
        name: link["ifname"].as_str().unwrap_or_default().to_owned(),
        pci: link["parentdev"].as_str().and_then(|address| address.parse().ok()),
        mtu: link["mtu"].as_u64().unwrap_or_default(),
        up: list(&link["flags"]).iter().any(|flag| flag == "UP"),
        addresses: list(&link["addr_info"])
            .iter()
            .filter(|a| a["family"] == "inet")
            .map(|a| format!("{}/{}", a["local"].as_str().unwrap_or_default(), a["prefixlen"]))
            .collect(),
    };
    Ok(list(&links).iter().map(link).filter(|l| l.name != "lo").collect())
}

/// What a PF says of its VFs, by `ip`.
///
/// # Errors
/// What `ip` says, or that it lists no VFs.
pub fn settings_of(pf: &str) -> Result<Vec<Value>> {
    let links: Value = serde_json::from_str(&run("ip", &["-json", "-details", "link", "show", "dev", pf])?)?;
    links[0]["vfinfo_list"].as_array().cloned().with_context(|| format!("ip lists no VFs of {pf}"))
}

/// Waits until something is so.
///
/// # Errors
/// Says what did not come, with the last error of the look.
pub fn wait_for(limit: Duration, what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let last = look();
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        if Instant::now() >= end {
            return last.and(Ok(())).and_then(|()| bail!("waited {} s for {what}", limit.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until every VF is on the host exactly as it was.
///
/// # Errors
/// Names each VF that differs, with what it was and what it is.
pub fn wait_as_before(before: &BTreeMap<PciAddress, Facts>, limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let differences = differences(before);
        if differences.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!(
                "{} of {} VFs are not as before: {}",
                differences.len(),
                before.len(),
                differences.join("; ")
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn differences(before: &BTreeMap<PciAddress, Facts>) -> Vec<String> {
    let of = |(pci, was): (&PciAddress, &Facts)| {
        // Index and PF don't matter to what is read.
        match facts(&[Vf { pf: *pci, index: 0, pci: *pci }]) {
            Ok(now) if now.get(pci) == Some(was) => None,
            Ok(now) => Some(format!("{pci} was {was:?} and is {:?}", now.get(pci))),
            Err(error) => Some(format!("{pci}: {error:#}")),
        }
    };
    before.iter().filter_map(of).collect()
}

/// The agent holds no more namespaces and descriptors than at first.
///
/// # Errors
/// What it holds, with names.
pub fn ensure_no_more(first: &Held, last: &Held) -> Result<()> {
    ensure!(
        last.namespaces == first.namespaces,
        "network namespaces were {:?}, are {:?}",
        first.namespaces,
        last.namespaces
    );
    ensure!(
        last.descriptors.len() <= first.descriptors.len(),
        "the agent had these descriptors: {:#?} and has these: {:#?}",
        first.descriptors,
        last.descriptors
    );
    Ok(())
}
