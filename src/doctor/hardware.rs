//! Kernel, IOMMU, SR-IOV, VFs and their drivers.

use super::{Facts, Functions, Line, count, named, numbers};
use crate::device::{Pf, Place};

/// The oldest kernel that the driver is written for.
const KERNEL: (u32, u32) = (5, 10);
/// NVIDIA, formerly Mellanox: its tool sets up SR-IOV in the card's firmware.
const MELLANOX: u16 = 0x15b3;

pub(super) fn kernel(facts: &Facts) -> Line {
    let release = &facts.survey.kernel.release;
    match numbers(release) {
        None => Line::unknown("kernel", "the kernel's release can't be read from /proc/sys/kernel/osrelease"),
        Some((major, minor, _)) if (major, minor) < KERNEL => Line::fault(
            "kernel",
            format!("{release}: the driver is written for {}.{} and newer", KERNEL.0, KERNEL.1),
        )
        .mend("# install a newer kernel and reboot"),
        Some(_) => Line::ok("kernel", release.clone()),
    }
}

/// A command that adds a word to the kernel's command line, with the program that this distribution has.
pub(super) fn add_parameter(facts: &Facts, words: &str) -> Vec<String> {
    let has = |program: &str| facts.survey.programs.contains(&program);
    let mut commands = if has("grubby") {
        vec![format!("sudo grubby --update-kernel=ALL --args=\"{words}\"")]
    } else if has("update-grub") {
        vec![
            format!("sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{words} /' /etc/default/grub"),
            "sudo update-grub".to_owned(),
        ]
    } else {
        vec![format!("# add to the kernel's command line: {words}")]
    };
    commands.push("sudo reboot".to_owned());
    commands
}

pub(super) fn iommu(facts: &Facts) -> Line {
    let kernel = &facts.survey.kernel;
    let iommu = &kernel.iommu;
    if iommu.groups > 0 {
        let without: Vec<_> = facts
            .functions
            .iter()
            .flat_map(|functions| &functions.snapshot.vfs)
            .filter(|vf| vf.iommu_group.is_none())
            .map(|vf| vf.pci)
            .collect();
        let seen = count(iommu.groups, "group");
        if without.is_empty() {
            return Line::ok("iommu", format!("in use, {seen}"));
        }
        return Line::warning(
            "iommu",
            format!(
                "in use, {seen}, but {} have none: bind.driver: vfio-pci is refused for them",
                named(&without)
            ),
        );
    }
    let needed = "bind.driver: vfio-pci is refused, network interfaces work";
    let is_amd = kernel.cpu.as_deref() == Some("AuthenticAMD");
    if kernel.parameter("intel_iommu") == Some("off")
        || ["off", "soft"].iter().any(|off| kernel.parameter("iommu") == Some(off))
        || kernel.parameter("amd_iommu") == Some("off")
    {
        return Line::warning("iommu", format!("switched off by the kernel's command line: {needed}"))
            .mend("# take intel_iommu=off, amd_iommu=off or iommu=off from the kernel's command line")
            .mend("sudo reboot");
    }
    if iommu.table.is_some() {
        let words = if is_amd { "iommu=pt" } else { "intel_iommu=on iommu=pt" };
        return Line::warning("iommu", format!("the machine has one, the kernel does not use it: {needed}"))
            .mends(add_parameter(facts, words));
    }
    if kernel.virtual_machine {
        return Line::warning("iommu", format!("this virtual machine has none: {needed}"))
            .mend("# give the virtual machine a virtual IOMMU (QEMU: -device intel-iommu,intremap=on,caching-mode=on)");
    }
    let name = if is_amd { "IOMMU (AMD-Vi)" } else { "VT-d" };
    Line::warning("iommu", format!("the firmware tells of none: {needed}"))
        .mend(format!("# in the machine's BIOS setup: switch on {name}"))
}

pub(super) fn sriov(facts: &Facts) -> Line {
    let functions = match &facts.functions {
        Ok(functions) => functions,
        Err(why) => {
            return Line::fault("sriov", why.clone())
                .mend("# give the folder where sysfs is with --sysfs-root");
        }
    };
    let (pfs, vfs) = (&functions.snapshot.pfs, &functions.snapshot.vfs);
    if pfs.is_empty() && vfs.is_empty() {
        let line = Line::fault(
            "sriov",
            "no network function has the SR-IOV capability: the card has none, or it is switched off in the firmware of \
             the machine or of the card",
        );
        if facts.survey.kernel.virtual_machine {
            return line.mend("# this is a virtual machine: pass VFs of the host's card into it");
        }
        return line
            .mend("# in the machine's BIOS setup: switch on SR-IOV (and Above 4G Decoding)")
            .mend("lspci -nn -d ::0200; lspci -nn -d ::0207     # is there a card?");
    }
    if pfs.is_empty() {
        return Line::ok("sriov", format!("{} passed into this virtual machine", count(vfs.len(), "VF")));
    }
    if let Some(said) = facts.survey.refused_vfs.as_ref().and_then(|lines| lines.first()) {
        return Line::fault("sriov", format!("the kernel could not make VFs: \"{said}\""))
            .mend("# in the machine's BIOS setup: switch on SR-IOV, ARI and Above 4G Decoding; if that is not enough:")
            .mends(add_parameter(facts, "pci=realloc"));
    }
    let off: Vec<&Pf> = pfs.iter().filter(|pf| pf.total_vfs == 0).collect();
    if !off.is_empty() {
        let names: Vec<String> = off.iter().map(|pf| name(pf)).collect();
        let seen = format!("{} may have 0 VFs: SR-IOV is off in the card's firmware", named(&names));
        let line =
            if off.len() == pfs.len() { Line::fault("sriov", seen) } else { Line::warning("sriov", seen) };
        let command = |pf: &&Pf| match pf.vendor {
            MELLANOX => format!(
                "sudo mstconfig -d {} set SRIOV_EN=1 NUM_OF_VFS=8     # then power off and on",
                pf.pci
            ),
            _ => format!("# switch on SR-IOV for {} with its vendor's tool or in the BIOS setup", pf.pci),
        };
        return line.mends(off.iter().map(command));
    }
    let most: u32 = pfs.iter().map(|pf| pf.total_vfs).sum();
    Line::ok("sriov", format!("{} with room for {most} VFs", count(pfs.len(), "PF")))
}

fn name(pf: &Pf) -> String {
    pf.netdev.as_ref().map_or_else(|| pf.pci.to_string(), |netdev| netdev.name.clone())
}

fn functions(facts: &Facts) -> Option<&Functions> {
    let functions = facts.functions.as_ref().ok()?;
    (!functions.snapshot.pfs.is_empty() || !functions.snapshot.vfs.is_empty()).then_some(functions)
}

pub(super) fn vfs(facts: &Facts) -> Line {
    let Some(Functions { snapshot, .. }) = functions(facts) else {
        return Line::fault("vfs", "none, since there is no SR-IOV");
    };
    let make = |pf: &Pf| {
        let number = pf.total_vfs.min(8);
        format!(
            "echo {number} | sudo tee /sys/bus/pci/devices/{}/sriov_numvfs     # and at each boot",
            pf.pci
        )
    };
    let able: Vec<&Pf> = snapshot.pfs.iter().filter(|pf| pf.total_vfs > 0).collect();
    if snapshot.vfs.is_empty() {
        return Line::fault("vfs", "no PF has VFs").mends(able.into_iter().map(make));
    }
    let down: Vec<&Pf> = snapshot
        .pfs
        .iter()
        .filter(|pf| pf.num_vfs > 0 && pf.netdev.as_ref().is_some_and(|netdev| !netdev.up))
        .collect();
    if !down.is_empty() {
        let names: Vec<String> = down.iter().map(|pf| name(pf)).collect();
        return Line::warning(
            "vfs",
            format!("{} is down: most cards give its VFs no link then", named(&names)),
        )
        .mends(names.iter().map(|name| format!("sudo ip link set {name} up")));
    }
    let without: Vec<&Pf> = able.into_iter().filter(|pf| pf.num_vfs == 0 && !is_uplink(pf)).collect();
    let seen = count(snapshot.vfs.len(), "VF");
    if without.is_empty() {
        return Line::ok("vfs", seen);
    }
    let names: Vec<String> = without.iter().map(|pf| name(pf)).collect();
    // That a port has none may be meant: no warning, but the command all the same.
    Line::ok("vfs", format!("{seen}; none on {}", named(&names)))
}

fn is_uplink(pf: &Pf) -> bool {
    pf.netdev.as_ref().is_some_and(|netdev| netdev.uplink)
}

/// Driver of a PF and module of its VFs, where these differ (the ID tables of the modules).
const VF_MODULES: [(&str, &str); 6] = [
    ("igb", "igbvf"),
    ("ixgbe", "ixgbevf"),
    ("i40e", "iavf"),
    ("ice", "iavf"),
    ("enic", "enic"),
    ("hns3", "hclgevf"),
];

pub(super) fn drivers(facts: &Facts) -> Line {
    let Some(Functions { snapshot, .. }) = functions(facts) else {
        return Line::ok("drivers", "nothing to bind");
    };
    let without: Vec<_> = snapshot.pfs.iter().filter(|pf| pf.driver.is_none()).map(|pf| pf.pci).collect();
    if let Some(first) = without.first() {
        return Line::fault(
            "drivers",
            format!("PF {} is bound to no driver, so it can't have VFs", named(&without)),
        )
        .mend(format!("echo {first} | sudo tee /sys/bus/pci/drivers_probe"))
        .mend("sudo dmesg | grep -i firmware     # if that changes nothing: why its driver refused it");
    }
    let unbound: Vec<_> = snapshot.vfs.iter().filter(|vf| vf.place == Place::Unbound).collect();
    for vf in &unbound {
        let Some(driver) = snapshot.pf_of(vf).and_then(|pf| pf.driver.as_deref()) else { continue };
        let module = VF_MODULES.iter().find(|(pf, _)| *pf == driver).map_or(driver, |(_, module)| module);
        if facts.survey.modules.is_loaded(module) {
            continue;
        }
        let seen =
            format!("VF {} has no driver, and module {module}, which is theirs, is not loaded", vf.pci);
        return match facts.survey.modules.is_known(module) {
            Some(false) => Line::fault("drivers", format!("{seen} and not installed for this kernel"))
                .mend(format!("# install the kernel's package that has {module}.ko")),
            _ => Line::fault("drivers", seen).mend(format!("sudo modprobe {module}")).mend(format!(
                "echo {module} | sudo tee /etc/modules-load.d/{module}.conf     # at each boot"
            )),
        };
    }
    let mut drivers: Vec<&str> = snapshot.vfs.iter().filter_map(|vf| vf.driver.as_deref()).collect();
    drivers.sort_unstable();
    drivers.dedup();
    let bound = match drivers.is_empty() {
        true => String::new(),
        false => format!("VFs are bound to {}", drivers.join(", ")),
    };
    let rest = match unbound.len() {
        0 => String::new(),
        number => format!("{} without driver, which claims bind", count(number, "VF")),
    };
    let both: Vec<String> = [bound, rest].into_iter().filter(|text| !text.is_empty()).collect();
    Line::ok("drivers", if both.is_empty() { "there is no VF to bind".to_owned() } else { both.join("; ") })
}

pub(super) fn offered(facts: &Facts) -> Line {
    let Some(Functions { offered, withheld, .. }) = functions(facts) else {
        return Line::ok("offered", "nothing to offer");
    };
    let reasons: Vec<String> = withheld.iter().map(|(vf, reason)| format!("{vf}: {reason}")).collect();
    let Some(first) = reasons.first() else {
        return Line::ok("offered", count(*offered, "VF"));
    };
    let seen = format!("{} of {}; {first}", offered, count(offered + reasons.len(), "VF"));
    let line = if *offered == 0 { Line::fault("offered", seen) } else { Line::ok("offered", seen) };
    match reasons.len() {
        1 => line,
        _ => line.mend("sudo sriov-dra inventory     # the reason for each"),
    }
}

pub(super) fn uplink(facts: &Facts) -> Line {
    let Some(Functions { snapshot, .. }) = functions(facts) else {
        return Line::ok("uplink", "no SR-IOV function carries it");
    };
    let carries =
        |netdev: &Option<crate::device::Netdev>| netdev.as_ref().is_some_and(|netdev| netdev.uplink);
    if let Some(vf) = snapshot.vfs.iter().find(|vf| carries(&vf.netdev)) {
        return Line::ok("uplink", format!("VF {} carries the node's default route and is withheld", vf.pci));
    }
    match snapshot.pfs.iter().find(|pf| carries(&pf.netdev)) {
        Some(pf) => Line::ok(
            "uplink",
            format!(
                "PF {} carries the node's default route; its VFs are offered and share its port",
                name(pf)
            ),
        ),
        None => Line::ok("uplink", "the node's default route goes through no SR-IOV function"),
    }
}
