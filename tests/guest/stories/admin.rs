//! What kernels take of a VF's settings: ours and those of `ip` for the same wish, byte by byte and in what comes of them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::libc;
use serde_json::{Value, json};
use sriov_dra::device::{LinkState, PfLink, Rate, Setting, Vlan, VlanProtocol};
use sriov_dra::host::{Netns, vf_admin};

use crate::containerd::OWN;
use crate::host::{facts, make_vfs, netdev, run, settings_of, wait_for};
use crate::inside::{Ground, NotHere};

/// The VF that is set; the others show that only it is.
const VF: u32 = 1;

/// `RTM_NEWLINK`
const NEWLINK: u16 = 16;

fn host() -> Result<Netns> {
    Ok(Netns::open(Path::new("/proc/self/ns/net"))?)
}

fn link_of(name: &str) -> Result<PfLink> {
    let index = fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))?.trim().parse()?;
    Ok(PfLink { name: name.to_owned(), index })
}

fn vlan(id: u16, qos: u8, protocol: VlanProtocol) -> Setting {
    Setting::Vlan(Vlan { id, qos, protocol })
}

fn mac(text: &str) -> Result<Setting> {
    Ok(Setting::Mac(text.parse().map_err(anyhow::Error::msg)?))
}

fn rate(min_mbps: u32, max_mbps: u32) -> Setting {
    Setting::Rate(Rate { min_mbps, max_mbps })
}

/// What `ip link set PF vf N` is told for a setting.
fn words_of(setting: &Setting) -> Vec<String> {
    let switch = |on: &bool| if *on { "on" } else { "off" }.to_owned();
    let words: Vec<String> = match setting {
        Setting::Mac(mac) => vec!["mac".into(), mac.to_string()],
        Setting::Vlan(Vlan { id, qos, protocol }) => {
            let mut words = vec!["vlan".into(), id.to_string()];
            if *qos != 0 {
                words.extend(["qos".into(), qos.to_string()]);
            }
            if *protocol == VlanProtocol::Dot1ad {
                words.extend(["proto".into(), "802.1ad".into()]);
            }
            words
        }
        Setting::SpoofCheck(on) => vec!["spoofchk".into(), switch(on)],
        Setting::Trust(on) => vec!["trust".into(), switch(on)],
        Setting::LinkState(state) => vec!["state".into(), state.to_string()],
        Setting::Rate(Rate { min_mbps, max_mbps }) => {
            vec!["min_tx_rate".into(), min_mbps.to_string(), "max_tx_rate".into(), max_mbps.to_string()]
        }
    };
    words
}

/// Whether `ip` says of a VF what was set.
fn is_shown(shown: &Value, setting: &Setting) -> bool {
    match setting {
        Setting::Mac(mac) => shown["address"] == mac.to_string(),
        Setting::Vlan(Vlan { id: 0, .. }) => shown["vlan_list"][0]["vlan"].is_null(),
        Setting::Vlan(Vlan { id, qos, protocol }) => {
            let listed = &shown["vlan_list"][0];
            let protocol = match protocol {
                // Not named by `ip`, as it is the usual one.
                VlanProtocol::Dot1q => Value::Null,
                VlanProtocol::Dot1ad => json!("802.1ad"),
            };
            listed["vlan"] == *id
                && listed["qos"].as_u64().unwrap_or(0) == u64::from(*qos)
                && listed["protocol"] == protocol
        }
        Setting::SpoofCheck(on) => shown["spoofchk"] == *on,
        Setting::Trust(on) => shown["trust"] == *on,
        Setting::LinkState(state) => {
            let state = match state {
                LinkState::Auto => "auto",
                LinkState::Enable => "enable",
                LinkState::Disable => "disable",
            };
            shown["link_state"] == state
        }
        Setting::Rate(Rate { min_mbps, max_mbps }) => {
            let of = |which: &str| shown["rate"][which].as_u64().unwrap_or(0);
            of("min_tx") == u64::from(*min_mbps) && of("max_tx") == u64::from(*max_mbps)
        }
    }
}

/// Sets a VF, then asks for it in both ways.
fn set_and_look(host: &Netns, pf: &PfLink, setting: &Setting) -> Result<()> {
    vf_admin::set(host, pf, VF, setting)?;
    let read = vf_admin::read(host, pf, VF)?;
    ensure!(
        read.like(setting).as_ref() == Some(setting),
        "after {} {setting} it reads {read:?}",
        setting.field()
    );
    let shown = settings_of(&pf.name)?;
    let shown = &shown[VF as usize];
    ensure!(is_shown(shown, setting), "after {} {setting} ip says {shown}", setting.field());
    Ok(())
}

/// A NIC of the kernel's own making, with VFs of which there is nothing but their settings.
struct NetdevSim(String);

impl NetdevSim {
    const NUMBER: u32 = 77;
    const BUS: &str = "/sys/bus/netdevsim";

    fn new(vfs: u32) -> Result<Self> {
        if run("modprobe", &["netdevsim"]).is_err() {
            return Err(NotHere("the image was made without netdevsim".to_owned()).into());
        }
        fs::write(format!("{}/new_device", Self::BUS), format!("{} 1", Self::NUMBER))?;
        let device = format!("{}/devices/netdevsim{}", Self::BUS, Self::NUMBER);
        let mut made = Self(String::new());
        fs::write(format!("{device}/sriov_numvfs"), vfs.to_string())?;
        let name = fs::read_dir(format!("{device}/net"))?.next().context("netdevsim made no netdev")??;
        made.0 = name.file_name().to_string_lossy().into_owned();
        Ok(made)
    }
}

impl Drop for NetdevSim {
    fn drop(&mut self) {
        // What is left of it stays until the guest ends.
        let _ = fs::write(format!("{}/del_device", Self::BUS), Self::NUMBER.to_string());
    }
}

/// Every kind of setting, and the way back to what a fresh VF has.
fn all_settings() -> Result<Vec<Setting>> {
    Ok(vec![
        mac("02:11:22:33:44:55")?,
        vlan(100, 0, VlanProtocol::Dot1q),
        vlan(4094, 7, VlanProtocol::Dot1q),
        vlan(100, 3, VlanProtocol::Dot1ad),
        vlan(0, 0, VlanProtocol::Dot1q),
        Setting::SpoofCheck(true),
        Setting::SpoofCheck(false),
        Setting::Trust(true),
        Setting::Trust(false),
        Setting::LinkState(LinkState::Enable),
        Setting::LinkState(LinkState::Disable),
        Setting::LinkState(LinkState::Auto),
        rate(10, 500),
        rate(0, 500),
        rate(0, 0),
        mac("00:00:00:00:00:00")?,
    ])
}

pub async fn netdevsim_takes_every_setting_and_ip_says_the_same_of_it(_: Ground) -> Result<()> {
    let nic = NetdevSim::new(3)?;
    let (host, pf) = (host()?, link_of(&nic.0)?);
    let before = settings_of(&nic.0)?;
    ensure!(before.len() == 3, "netdevsim has VFs {before:?}");
    let original = vf_admin::read(&host, &pf, VF)?;
    for setting in all_settings()? {
        set_and_look(&host, &pf, &setting)?;
        let now = settings_of(&nic.0)?;
        for other in [0, 2] {
            ensure!(now[other] == before[other], "VF {other} was {} and is {}", before[other], now[other]);
        }
    }
    for setting in original.each() {
        vf_admin::set(&host, &pf, VF, &setting)?;
    }
    let after = settings_of(&nic.0)?;
    ensure!(after == before, "the VFs were {before:?} and are {after:?}");
    Ok(())
}

pub async fn what_is_sent_for_a_setting_is_what_this_ip_sends_byte_by_byte(_: Ground) -> Result<()> {
    let nic = NetdevSim::new(3)?;
    for setting in all_settings()? {
        let (number, json) = (VF.to_string(), serde_json::to_string(&setting)?);
        let ours = sent_by(NEWLINK, &[OWN, "--set-vf", &nic.0, &number, &json])?;
        let words = words_of(&setting);
        let mut command = vec!["ip", "link", "set", &nic.0, "vf", &number];
        command.extend(words.iter().map(String::as_str));
        let theirs = sent_by(NEWLINK, &command)?;
        ensure!(
            ours == theirs,
            "for {} {setting}\nwe send  {ours:02x?}\nip sends {theirs:02x?}",
            setting.field()
        );
    }
    Ok(())
}

/// The one message of a kind that a command sends, without sequence number and port.
pub(super) fn sent_by(kind: u16, command: &[&str]) -> Result<Vec<u8>> {
    let trace = "/rw/strace";
    let options = ["-f", "-o", trace, "-e", "trace=sendmsg,sendto,write", "-e", "write=all"];
    run("strace", &[&options[..], command].concat())?;
    let mut messages: Vec<Vec<u8>> = Vec::new();
    let text = String::from_utf8_lossy(&fs::read(trace)?).into_owned();
    // ` | 00000  2c 00 00 00 …  ,... |`, with the process before it when there are several
    for line in text.lines().filter_map(|line| Some(line.split_once(" | ")?.1)) {
        let Some((offset, rest)) = line.split_once("  ") else { continue };
        let Ok(offset) = usize::from_str_radix(offset, 16) else { continue };
        let digits = rest.get(..rest.len().min(49)).unwrap_or(rest);
        if offset == 0 {
            messages.push(Vec::new());
        }
        let Some(message) = messages.last_mut() else { continue };
        message
            .extend(digits.split_whitespace().map_while(|byte| u8::from_str_radix(byte, 16).ok()).take(16));
    }
    messages.retain(|message| message.get(4..6) == Some(&kind.to_ne_bytes()[..]) && message.len() >= 32);
    ensure!(messages.len() == 1, "`{}` sent {messages:02x?}:\n{text}", command.join(" "));
    let mut message = messages.remove(0);
    let length = message.get(..4).and_then(|n| n.try_into().ok()).map(u32::from_ne_bytes);
    ensure!(length == u32::try_from(message.len()).ok(), "{length:?} is not the length of {message:02x?}");
    message.drain(8..16);
    Ok(message)
}

pub async fn igb_takes_what_the_docs_say_and_refuses_the_rest_with_these_errors(
    ground: Ground,
) -> Result<()> {
    let vfs = ground.of_one_pf();
    let name = netdev(vfs[0].pf)?.context("the PF has a netdev")?;
    let (host, pf) = (host()?, link_of(&name)?);
    let before = settings_of(&name)?;
    let original = vf_admin::read(&host, &pf, VF)?;
    for setting in
        [vlan(100, 3, VlanProtocol::Dot1q), Setting::SpoofCheck(false), Setting::Trust(true), rate(0, 500)]
    {
        let was = original.like(&setting).with_context(|| format!("igb does not say {}", setting.field()))?;
        set_and_look(&host, &pf, &setting)?;
        set_and_look(&host, &pf, &was)?;
    }
    for (setting, errno) in [
        (vlan(100, 0, VlanProtocol::Dot1ad), libc::EPROTONOSUPPORT),
        (rate(10, 500), libc::EINVAL),
        (Setting::LinkState(LinkState::Enable), libc::EOPNOTSUPP),
    ] {
        let refused =
            vf_admin::set(&host, &pf, VF, &setting).err().with_context(|| format!("igb took {setting}"))?;
        ensure!(
            refused.errno() == Some(errno),
            "{} {setting} is refused with {}",
            setting.field(),
            refused.sentence()
        );
    }
    let after = settings_of(&name)?;
    ensure!(after == before, "the VFs were {before:?} and are {after:?}");
    Ok(())
}

pub async fn an_admin_mac_of_igb_is_the_vfs_own_after_a_bind_and_binds_it_until_zero_is_set(
    ground: Ground,
) -> Result<()> {
    let vfs = ground.of_one_pf();
    let (host, pf) = (host()?, link_of(&netdev(vfs[0].pf)?.context("the PF has a netdev")?)?);
    let vf = vfs[VF as usize];
    let own = |address: &str| {
        let name = netdev(vf.pci)?.context("the VF has a netdev")?;
        run("ip", &["link", "set", &name, "address", address])
    };
    let rebind = || -> Result<()> {
        let driver = "/sys/bus/pci/drivers/igbvf";
        fs::write(format!("{driver}/unbind"), vf.pci.to_string())?;
        fs::write(format!("{driver}/bind"), vf.pci.to_string())?;
        wait_for(Duration::from_secs(10), "the VF's netdev", || Ok(netdev(vf.pci)?.is_some()))
    };
    // What the VF chose by itself is what its PF says of it.
    own("02:11:22:33:44:01")?;
    let said = vf_admin::read(&host, &pf, VF)?.mac;
    ensure!(
        said.map(Setting::Mac) == Some(mac("02:11:22:33:44:01")?),
        "the PF does not say what the VF chose"
    );

    set_and_look(&host, &pf, &mac("02:11:22:33:44:02")?)?;
    ensure!(facts(&[vf])?[&vf.pci].mac == "02:11:22:33:44:01", "the VF has heard of it by itself");
    rebind()?;
    ensure!(facts(&[vf])?[&vf.pci].mac == "02:11:22:33:44:02", "the VF has {}", facts(&[vf])?[&vf.pci].mac);
    ensure!(own("02:11:22:33:44:03").is_err(), "the VF may change it without trust");
    set_and_look(&host, &pf, &Setting::Trust(true))?;
    own("02:11:22:33:44:03")?;
    set_and_look(&host, &pf, &Setting::Trust(false))?;

    vf_admin::set(&host, &pf, VF, &mac("00:00:00:00:00:00")?)?;
    rebind()?;
    own("02:11:22:33:44:04")?;
    // Names and addresses are what they were only if the VFs are made anew.
    let (pf, count) = (vf.pf, u32::try_from(vfs.len())?);
    tokio::task::spawn_blocking(move || make_vfs(&[pf], count)).await??;
    Ok(())
}
