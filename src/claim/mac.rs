//! MAC addresses that a claim gives to a VF.

use serde_json::Value as Json;

use super::decode::At;
use super::fields::VfConfig;
use super::value::{Datum, Form, Slot, Span, TextForm, Value};
use crate::device::HwAddr;

const WHAT: &str = "a MAC address such as \"02:00:00:00:00:01\"";

/// No address, though it looks like one.
const ZERO: &str = "00:00:00:00:00:00";

/// A unicast MAC address.
pub(super) struct Mac(pub Slot<HwAddr>);

impl Value for Mac {
    fn form(&self) -> Form {
        Form::Text(TextForm {
            what: WHAT,
            // Unicast is a first octet whose lowest bit is 0 (IEEE 802, 48-bit addresses).
            pattern: "[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}".to_owned(),
            except: vec![ZERO],
            is_cidr: false,
            ranges: true,
        })
    }

    fn read(&self, at: &mut At<'_>, given: &Json, config: &mut VfConfig) {
        *(self.0.put)(config) =
            at.text(given, WHAT).and_then(|text| parse(text).map_or_else(|why| at.fault(why), Some));
    }

    fn overlay(&self, config: &mut VfConfig, later: &VfConfig) {
        self.0.overlay(config, later);
    }

    fn of(&self, config: &VfConfig) -> Option<Datum> {
        (self.0.get)(config).clone().map(Datum::Mac)
    }

    fn granted(&self, at: &mut At<'_>, given: &Json) -> Option<Span> {
        let text = at.text(given, "a MAC address, or a range of them with a hyphen")?;
        let span = match text.split_once('-') {
            Some((first, last)) => parse(first)
                .and_then(|first| Ok((first, parse(last)?)))
                .and_then(|(first, last)| Span::between(text, Datum::Mac(first), Datum::Mac(last))),
            None => parse(text).map(|mac| Span::one(Datum::Mac(mac))),
        };
        span.map_or_else(|problem| at.fault(problem), Some)
    }
}

fn parse(text: &str) -> Result<HwAddr, String> {
    let mac = text.parse::<HwAddr>().ok().filter(HwAddr::is_ethernet);
    let mac = mac.ok_or_else(|| format!("{text:?} is no MAC address, write it as in 02:00:00:00:00:01"))?;
    match mac.bytes() {
        bytes if bytes.iter().all(|byte| *byte == 0) => {
            Err(format!("{text} is no address; leave the field out for the VF's own"))
        }
        [first, ..] if first & 1 == 1 => Err(format!(
            "{text} is a multicast address; a VF's is unicast: its first octet must be even, not {first:02x}"
        )),
        _ => Ok(mac),
    }
}
