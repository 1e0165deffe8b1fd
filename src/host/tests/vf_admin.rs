//! Bytes of `ip` (iproute2 6.1.0, as strace showed them), and answers as kernels give them.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn vlan(id: u16, qos: u8, protocol: VlanProtocol) -> Setting {
    Setting::Vlan(Vlan { id, qos, protocol })
}

/// `ip link set pf0 vf 3 …` with pf0 as interface 3: what follows the netlink header.
#[test]
#[cfg(target_endian = "little")]
fn what_is_sent_is_what_ip_sends_for_the_same_wish() {
    let head = "00 00 00 00 03 00 00 00 00 00 00 00 00 00 00 00";
    let mac = Setting::Mac("02:11:22:33:44:55".parse().unwrap());
    for (setting, tail) in [
        (
            mac,
            "30 00 16 00 2c 00 01 00 28 00 01 00 03 00 00 00 02 11 22 33 44 55 00 00 00 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
        ),
        (
            vlan(100, 0, VlanProtocol::Dot1q),
            "18 00 16 00 14 00 01 00 10 00 02 00 03 00 00 00 64 00 00 00 00 00 00 00",
        ),
        (
            vlan(100, 3, VlanProtocol::Dot1q),
            "18 00 16 00 14 00 01 00 10 00 02 00 03 00 00 00 64 00 00 00 03 00 00 00",
        ),
        (
            vlan(100, 3, VlanProtocol::Dot1ad),
            "20 00 16 00 1c 00 01 00 18 00 0c 00 14 00 01 00 03 00 00 00 64 00 00 00 03 00 00 00 88 a8 00 00",
        ),
        (
            vlan(0, 0, VlanProtocol::Dot1q),
            "18 00 16 00 14 00 01 00 10 00 02 00 03 00 00 00 00 00 00 00 00 00 00 00",
        ),
        (Setting::SpoofCheck(true), "14 00 16 00 10 00 01 00 0c 00 04 00 03 00 00 00 01 00 00 00"),
        (Setting::Trust(false), "14 00 16 00 10 00 01 00 0c 00 09 00 03 00 00 00 00 00 00 00"),
        (
            Setting::LinkState(LinkState::Enable),
            "14 00 16 00 10 00 01 00 0c 00 05 00 03 00 00 00 01 00 00 00",
        ),
        (
            Setting::Rate(Rate { min_mbps: 0, max_mbps: 500 }),
            "18 00 16 00 14 00 01 00 10 00 06 00 03 00 00 00 00 00 00 00 f4 01 00 00",
        ),
    ] {
        assert_eq!(message(3, 3, &setting), hex(&format!("{head} {tail}")), "{setting:?}");
    }
}

/// `ip link set pf0 vf 3 node_guid 11:22:33:44:55:66:77:88`, and port_guid.
#[test]
#[cfg(target_endian = "little")]
fn guids_are_sent_as_ip_sends_them() {
    for (which, kind) in [(Guid::Node, "0a"), (Guid::Port, "0b")] {
        let bytes = hex(&format!(
            "00 00 00 00 03 00 00 00 00 00 00 00 00 00 00 00 \
             1c 00 16 00 18 00 01 00 14 00 {kind} 00 03 00 00 00 00 00 00 00 88 77 66 55 44 33 22 11"
        ));
        assert_eq!(guid_message(3, 3, which, 0x1122_3344_5566_7788), bytes, "{which:?}");
    }
}

/// One VF in a list as `rtnl_fill_vfinfo` writes it.
fn info(vf: u32, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut info = Vec::new();
    let mut mac = vf.to_ne_bytes().to_vec();
    mac.extend_from_slice(&[2, 0, 0, 0, 0, u8::try_from(vf).unwrap()]);
    mac.resize(36, 0);
    attribute(&mut info, IFLA_VF_MAC, &mac);
    fill(&mut info);
    info
}

fn answer(infos: &[Vec<u8>]) -> Vec<u8> {
    let mut list = Vec::new();
    infos.iter().for_each(|info| attribute(&mut list, IFLA_VF_INFO, info));
    let mut answer = ifinfomsg(3);
    attribute(&mut answer, 3, b"pf0\0");
    attribute(&mut answer, 0x8000 | IFLA_VFINFO_LIST, &list);
    answer
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

#[test]
fn what_a_driver_does_not_say_is_none_and_a_vf_is_known_by_its_number() {
    let full = info(5, |info| {
        attribute(info, IFLA_VF_VLAN, &words(&[5, 100, 3]));
        let mut vlan = words(&[5, 100, 3]);
        vlan.extend_from_slice(&[0x88, 0xa8, 0, 0]);
        let mut list = Vec::new();
        attribute(&mut list, IFLA_VF_VLAN_INFO, &vlan);
        attribute(info, IFLA_VF_VLAN_LIST, &list);
        attribute(info, IFLA_VF_SPOOFCHK, &words(&[5, 1]));
        attribute(info, IFLA_VF_TRUST, &words(&[5, 0]));
        attribute(info, IFLA_VF_LINK_STATE, &words(&[5, 2]));
        attribute(info, IFLA_VF_RATE, &words(&[5, 10, 500]));
    });
    // Spoof check and trust are -1 when the driver does not fill them.
    let silent = info(0, |info| {
        attribute(info, IFLA_VF_SPOOFCHK, &words(&[0, u32::MAX]));
        attribute(info, IFLA_VF_TRUST, &words(&[0, u32::MAX]));
    });
    let bytes = answer(&[silent, full]);
    assert_eq!(
        parse(&bytes, 5).unwrap(),
        VfSettings {
            mac: Some("02:00:00:00:00:05".parse().unwrap()),
            vlan: Some(Vlan { id: 100, qos: 3, protocol: VlanProtocol::Dot1ad }),
            spoof_check: Some(true),
            trust: Some(false),
            link_state: Some(LinkState::Disable),
            rate: Some(Rate { min_mbps: 10, max_mbps: 500 }),
        }
    );
    let only_mac = VfSettings { mac: Some("02:00:00:00:00:00".parse().unwrap()), ..VfSettings::default() };
    assert_eq!(parse(&bytes, 0).unwrap(), only_mac);
    assert_eq!(parse(&bytes, 1), None, "left out, not taken for its neighbour");
    for cut in 0..bytes.len() {
        // Never a panic, and never a VF of which only a part is there taken for another.
        assert!(parse(&bytes[..cut], 1).is_none());
    }
}
