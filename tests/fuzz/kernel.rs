//! What the kernel says over netlink, and the network over the wire.

use crate::engine::targets;

targets! {
    rtnetlink, 1 << 16;
    netlink_messages, 1 << 16;
    vf_settings, 1 << 16;
    neighbours, 1 << 16;
    uevents, 1 << 16;
}

mod hold {
    use std::net::IpAddr;

    use sriov_dra::device::{HwAddr, InstalledRoute, Setting};
    use sriov_dra::host::Link;
    use sriov_dra::host::decoders;
    use sriov_dra::host::probe::Question;

    /// Number of the request that the corpus answers.
    const SEQUENCE: u32 = 1;

    pub fn rtnetlink(datagram: &[u8]) {
        let Ok(heard) = decoders::rtnetlink(SEQUENCE, datagram) else { return };
        for InstalledRoute { link, route } in heard.routes {
            let mixed =
                |other: &Option<IpAddr>| other.is_some_and(|o| o.is_ipv4() != route.to.addr().is_ipv4());
            if mixed(&route.via) || mixed(&route.source) {
                continue;
            }
            let bytes = decoders::route_bytes(SEQUENCE, link, &route);
            let again = decoders::rtnetlink(SEQUENCE, &bytes).unwrap().routes;
            let mut route = route;
            route.to = route.to.trunc();
            assert_eq!(again, [InstalledRoute { link, route }]);
        }
        for rule in heard.rules {
            let bytes = decoders::rule_bytes(SEQUENCE, &rule);
            assert_eq!(decoders::rtnetlink(SEQUENCE, &bytes).unwrap().rules, [rule]);
        }
    }

    pub fn netlink_messages(datagram: &[u8]) {
        let bodies = match decoders::netlink(datagram) {
            Ok((bodies, _)) => bodies,
            Err(_) => vec![datagram.to_vec()],
        };
        assert!(bodies.iter().map(Vec::len).sum::<usize>() <= datagram.len());
        for body in &bodies {
            let (device, character, _) = decoders::rdma_netlink(body);
            // Names become paths below /dev and keys of lookups.
            assert!(device.is_none_or(|device| device.name.len() <= 3 * body.len()));
            assert!(character.is_none_or(|character| character.path.starts_with("/dev/infiniband/")));
            decoders::generic_netlink(body);
            decoders::ethtool_text(body);
            for kind in [0, 1, 2, 3, 22, 66, 70, 72] {
                let values = decoders::attributes(body, kind);
                let (mut written, used) =
                    (Vec::new(), values.iter().map(|value| value.len() + 4).sum::<usize>());
                assert!(used <= body.len(), "attributes of {used} bytes in {}", body.len());
                values.iter().for_each(|value| decoders::attribute(&mut written, kind, value));
                assert_eq!(decoders::attributes(&written, kind), values);
            }
        }
    }

    pub fn vf_settings(body: &[u8]) {
        for vf in [0, 1, 5, u32::MAX] {
            let Some(settings) = decoders::vf_settings(body, vf) else { continue };
            if let Some(mac) = settings.mac {
                let written = decoders::vf_setting_bytes(3, vf, &Setting::Mac(mac.clone()));
                assert_eq!(decoders::vf_settings(&written, vf).unwrap().mac, Some(mac));
                assert_eq!(decoders::vf_settings(&written, vf ^ 1), None);
            }
        }
    }

    pub fn neighbours(frame: &[u8]) {
        let own: HwAddr = "02:11:22:33:44:55".parse().unwrap();
        for (address, from) in [
            ("172.16.11.10", None),
            ("172.16.11.10", Some("172.16.11.1")),
            ("fd00:11::10", None),
            ("fd00:11::10", Some("fd00:11::1")),
        ] {
            let question = Question {
                link: Link {
                    index: 7,
                    name: "net1".to_owned(),
                    hw_addr: Some(own.clone()),
                    ..Link::default()
                },
                address: address.parse().unwrap(),
                from: from.map(|from| from.parse().unwrap()),
            };
            let Some(by) = decoders::neighbour(&question, frame) else { continue };
            assert_ne!(by, own, "an address is not one's own neighbour's");
            assert!(frame.windows(6).any(|window| window == by.bytes()), "{by} is nowhere in the frame");
            let (asked, length) = match question.address {
                IpAddr::V4(address) => (address.octets().to_vec(), 42),
                IpAddr::V6(address) => (address.octets().to_vec(), 78),
            };
            assert!(
                frame.windows(asked.len()).any(|window| window == asked),
                "{address} is nowhere in the frame"
            );
            let _ = length;
        }
    }

    pub fn uevents(event: &[u8]) {
        let text = String::from_utf8_lossy(event);
        let ours = ["pci", "net", "infiniband"]
            .iter()
            .any(|of| text.split('\0').any(|f| f == format!("SUBSYSTEM={of}")));
        assert_eq!(decoders::uevent(event), ours);
    }
}
