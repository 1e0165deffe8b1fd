//! RDMA devices, their namespaces, GPUs beside them, memory that may be locked.

use super::{Facts, Line, count, named, numbers};
use crate::device::{LinkType, RdmaNetnsMode, Vf};

/// NVIDIA.
const NVIDIA: u16 = 0x10de;
/// CAP_SYS_RESOURCE (include/uapi/linux/capability.h): limits may be raised above the hard one.
const SYS_RESOURCE: u64 = 1 << 24;
const ZERO_GUID: &str = "0000:0000:0000:0000";
/// Drivers of NICs and the modules that make RDMA devices of them.
const RDMA_MODULES: [(&str, &str); 4] =
    [("mlx5_core", "mlx5_ib"), ("mlx4_core", "mlx4_ib"), ("ice", "irdma"), ("bnxt_en", "bnxt_re")];

fn vfs(facts: &Facts) -> &[Vf] {
    facts.functions.as_ref().map_or(&[], |functions| &functions.snapshot.vfs)
}

/// Whether anything of RDMA is here.
fn has_rdma(facts: &Facts) -> bool {
    let pfs = facts.functions.as_ref().map_or(&[][..], |functions| &functions.snapshot.pfs);
    pfs.iter().any(|pf| !pf.rdma.is_empty()) || vfs(facts).iter().any(|vf| !vf.rdma.is_empty())
}

pub(super) fn devices(facts: &Facts) -> Line {
    let modules = &facts.survey.modules;
    let load = |module: &str| {
        [
            format!("sudo modprobe {module}"),
            format!("echo {module} | sudo tee /etc/modules-load.d/{module}.conf     # at each boot"),
        ]
    };
    if !has_rdma(facts) {
        let drivers = facts.functions.iter().flat_map(|functions| &functions.snapshot.pfs);
        let drivers: Vec<&str> = drivers.filter_map(|pf| pf.driver.as_deref()).collect();
        let missing = RDMA_MODULES
            .iter()
            .find(|(driver, module)| drivers.contains(driver) && !modules.is_loaded(module));
        return match missing {
            Some((driver, module)) => Line::warning(
                "rdma",
                format!(
                    "no RDMA device, though cards of {driver} can have some: module {module} is not loaded"
                ),
            )
            .mends(load(module)),
            None => Line::ok("rdma", "no RDMA device here"),
        };
    }
    let with: Vec<&Vf> = vfs(facts).iter().filter(|vf| !vf.rdma.is_empty()).collect();
    for module in ["ib_uverbs", "rdma_ucm"] {
        if !modules.is_loaded(module) {
            let seen = format!("RDMA devices, but module {module} is not loaded: programs can't use them");
            return Line::warning("rdma", seen).mends(load(module));
        }
    }
    let infiniband = with.iter().any(|vf| vf.link_type == Some(LinkType::Infiniband));
    if infiniband && !modules.is_loaded("ib_ipoib") {
        let seen =
            "InfiniBand, but module ib_ipoib is not loaded: VFs have no network interface to move into pods";
        return Line::warning("rdma", seen).mends(load("ib_ipoib"));
    }
    // RoCE connections by rdma_cm fail with it; the GUID is made of the MAC that the PF gave.
    let zero: Vec<&Vf> = with
        .iter()
        .copied()
        .filter(|vf| vf.rdma.iter().any(|device| device.node_guid.as_deref() == Some(ZERO_GUID)))
        .collect();
    if let Some(vf) = zero.first() {
        let pf = facts.functions.as_ref().ok().and_then(|functions| functions.snapshot.pf_of(vf));
        let pf = pf.and_then(|pf| pf.netdev.as_ref()).map_or("<PF>", |netdev| netdev.name.as_str());
        let (number, address) = (vf.index.unwrap_or_default(), vf.pci);
        let mac = vf.netdev.as_ref().and_then(|netdev| netdev.hw_addr.as_ref());
        let mac = mac.map_or_else(|| "<MAC>".to_owned(), ToString::to_string);
        let driver = vf.driver.as_deref().unwrap_or("mlx5_core");
        let all: Vec<_> = zero.iter().map(|vf| vf.pci).collect();
        let line =
            Line::warning("rdma", format!("{} has node GUID 0: connections by rdma_cm fail", named(&all)));
        return match vf.link_type {
            Some(LinkType::Infiniband) => line.mend(format!(
                "sudo ip link set {pf} vf {number} node_guid 02:00:00:00:00:00:00:{:02x}     # one of your own; port_guid too",
                number + 1
            )),
            _ => line.mend(format!("sudo ip link set {pf} vf {number} mac {mac}")),
        }
        .mend(format!("echo {address} | sudo tee /sys/bus/pci/drivers/{driver}/unbind"))
        .mend(format!("echo {address} | sudo tee /sys/bus/pci/drivers/{driver}/bind"));
    }
    match with.len() {
        0 => Line::ok("rdma", "PFs have RDMA devices, VFs have none"),
        number => Line::ok("rdma", format!("{} with an RDMA device", count(number, "VF"))),
    }
}

pub(super) fn mode(facts: &Facts) -> Line {
    const CHECK: &str = "rdma-mode";
    let found = facts.functions.as_ref().ok().and_then(|functions| functions.snapshot.rdma_netns);
    let survey = &facts.survey;
    let set = survey.rdma_options.first();
    let image = || {
        let has = |program: &str| survey.programs.contains(&program);
        match () {
            () if has("update-initramfs") => "sudo update-initramfs -u",
            () if has("dracut") => "sudo dracut --force",
            () => "# make the initial RAM disk again, if this system has one",
        }
        .to_owned()
    };
    let at_boot = "echo 'options ib_core netns_mode=0' | sudo tee /etc/modprobe.d/ib_core.conf";
    match found {
        None if has_rdma(facts) => {
            Line::unknown(CHECK, "the kernel doesn't say how RDMA devices relate to namespaces")
        }
        None | Some(_) if !has_rdma(facts) => Line::ok(CHECK, "no RDMA device here needs one"),
        Some(RdmaNetnsMode::Exclusive) => match set {
            Some(option) if option.exclusive => Line::ok(
                CHECK,
                format!("exclusive: a pod sees its own RDMA devices only; set in {}", option.place),
            ),
            Some(option) => Line::warning(
                CHECK,
                format!("exclusive now, but {} sets shared at the next boot", option.place),
            )
            .mend(at_boot)
            .mend(image()),
            None if !survey.sees_files => Line::ok(CHECK, "exclusive: a pod sees its own RDMA devices only"),
            None => Line::warning(CHECK, "exclusive now, but nothing sets it at the next boot")
                .mend(at_boot)
                .mend(image()),
        },
        Some(RdmaNetnsMode::Shared) | None => {
            let effect = "pods get device nodes only, and rdma.mode: namespace is refused";
            match set {
                Some(option) if option.exclusive => Line::warning(
                    CHECK,
                    format!("shared, though {} sets exclusive (not booted since, or ib_core is loaded earlier): {effect}", option.place),
                )
                .mend(image())
                .mend("sudo reboot"),
                _ => Line::warning(CHECK, format!("shared: {effect}")).mend(at_boot).mend(image()).mend("sudo reboot"),
            }
        }
    }
}

pub(super) fn gpudirect(facts: &Facts) -> Line {
    const CHECK: &str = "gpudirect";
    let survey = &facts.survey;
    let nvidia = survey.gpus.iter().filter(|gpu| gpu.vendor == NVIDIA).count();
    if !has_rdma(facts) || survey.gpus.is_empty() {
        return Line::ok(CHECK, "no GPU beside RDMA devices");
    }
    if nvidia == 0 {
        return Line::ok(
            CHECK,
            format!("{}; AMD's driver shares memory with RDMA by itself", count(survey.gpus.len(), "GPU")),
        );
    }
    let gpus = format!("{} of NVIDIA", count(nvidia, "GPU"));
    let modules = &survey.modules;
    if modules.is_loaded("nvidia_peermem") {
        return Line::ok(CHECK, format!("{gpus}, module nvidia_peermem"));
    }
    // DMA buffers of the open modules do without it, since 5.12.
    let buffers = numbers(&survey.kernel.release).is_some_and(|(major, minor, _)| (major, minor) >= (5, 12));
    if modules.open_nvidia && buffers {
        return Line::ok(CHECK, format!("{gpus}, DMA buffers of the open kernel modules"));
    }
    if !modules.is_loaded("nvidia") {
        return Line::warning(CHECK, format!("{gpus}, but module nvidia is not loaded"))
            .mend("# install NVIDIA's driver, or the GPU operator");
    }
    let line = Line::warning(
        CHECK,
        format!(
            "{gpus}, but module nvidia_peermem is not loaded: RDMA goes through the node's memory, at a fraction of the speed"
        ),
    );
    line.mend("sudo modprobe nvidia_peermem")
        .mend("echo nvidia_peermem | sudo tee /etc/modules-load.d/nvidia_peermem.conf     # at each boot")
}

pub(super) fn memlock(facts: &Facts) -> Line {
    const CHECK: &str = "memlock";
    if !has_rdma(facts) {
        return Line::ok(CHECK, "no RDMA device here needs locked memory");
    }
    let Some(runtime) = facts.survey.services.runtimes.first() else {
        return Line::unknown(CHECK, "no process of a container runtime to be seen from here");
    };
    let name = &runtime.name;
    let Some(limit) = runtime.memlock else {
        return Line::unknown(CHECK, format!("the limits of {name} (PID {}) can't be read", runtime.pid));
    };
    let Some(hard) = limit.hard else {
        return Line::ok(
            CHECK,
            format!("{name} may lock any amount, and so may what it gives to containers"),
        );
    };
    let size = match hard {
        bytes if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        bytes => format!("{} KiB", bytes >> 10),
    };
    let may_raise = runtime.capabilities.is_some_and(|bits| bits & SYS_RESOURCE != 0);
    if may_raise && facts.settings.nri_socket.is_some() {
        return Line::ok(
            CHECK,
            format!("{name} itself may lock {size} and may raise that for containers (CAP_SYS_RESOURCE)"),
        );
    }
    let why = match may_raise {
        true => "containers get that, and without NRI nobody raises it",
        false => "containers get no more, and it lacks CAP_SYS_RESOURCE to raise it",
    };
    Line::warning(CHECK, format!("{name} may lock {size}: {why}; RDMA programs fail to register memory (ENOMEM)"))
        .mend(format!("sudo mkdir -p /etc/systemd/system/{name}.service.d"))
        .mend(format!(
            "printf '[Service]\\nLimitMEMLOCK=infinity\\n' | sudo tee /etc/systemd/system/{name}.service.d/memlock.conf"
        ))
        .mend(format!("sudo systemctl daemon-reload && sudo systemctl restart {name}"))
}
