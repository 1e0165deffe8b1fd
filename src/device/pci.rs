//! PCI addresses (`dddd:bb:dd.f`) and the device names made of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A PCI function's address. Domains may be wider than 16 bits (VMD, Hyper-V, some Arm hosts).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    /// PCI domain (segment), four or more hexadecimal digits.
    pub domain: u32,
    /// Bus, 0 to 255.
    pub bus: u8,
    /// Device (slot), 0 to 31.
    pub device: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

/// Text that is no PCI address or no device name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a PCI address such as 0000:81:00.2")]
pub struct PciAddressError(pub String);

impl PciAddress {
    /// The DRA device name: the address as a DNS label, `0000-81-00-2` (KEP-4381: DNS-1123 label, at most 63).
    pub fn device_name(&self) -> String {
        format!("{:04x}-{:02x}-{:02x}-{:x}", self.domain, self.bus, self.device, self.function)
    }

    /// The inverse of [`device_name`](Self::device_name).
    pub fn from_device_name(name: &str) -> Result<Self, PciAddressError> {
        let parts: Vec<&str> = name.split('-').collect();
        match parts[..] {
            [domain, bus, device, function] => Self::from_parts(domain, bus, device, function),
            _ => None,
        }
        .filter(|address| address.device_name() == name)
        .ok_or_else(|| PciAddressError(name.to_owned()))
    }

    fn from_parts(domain: &str, bus: &str, device: &str, function: &str) -> Option<Self> {
        let hex = |text: &str, digits: std::ops::RangeInclusive<usize>| {
            let ok = digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
            ok.then(|| u32::from_str_radix(text, 16).ok()).flatten()
        };
        let device = hex(device, 2..=2).filter(|d| *d < 32)?;
        let function = hex(function, 1..=1).filter(|f| *f < 8)?;
        Some(Self {
            domain: hex(domain, 4..=8)?,
            bus: u8::try_from(hex(bus, 2..=2)?).ok()?,
            device: u8::try_from(device).ok()?,
            function: u8::try_from(function).ok()?,
        })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

impl FromStr for PciAddress {
    type Err = PciAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = (|| {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            Self::from_parts(domain, bus, device, function)
        })();
        parsed.ok_or_else(|| PciAddressError(text.to_owned()))
    }
}

impl TryFrom<String> for PciAddress {
    type Error = PciAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_device_names_round_trip_also_with_long_domains() {
        for (text, name) in [
            ("0000:81:00.2", "0000-81-00-2"),
            ("10000:01:1f.7", "10000-01-1f-7"),
            ("abcd:ff:00.0", "abcd-ff-00-0"),
        ] {
            let address: PciAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(address.device_name(), name);
            assert_eq!(PciAddress::from_device_name(name).unwrap(), address);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "81:00.2",
            "0000:81:00",
            "0000:81:20.0",
            "0000:81:00.8",
            "000:81:00.2",
            "0000:8:00.2",
            "0000:81:00.2 ",
            "+000:81:00.2",
            "0000:81:00.2.3",
        ] {
            assert!(bad.parse::<PciAddress>().is_err(), "{bad:?} was accepted");
        }
        for bad in ["0000-81-00-2-3", "0000:81:00.2", "0000-81-00", "ABCD-81-00-2"] {
            assert!(PciAddress::from_device_name(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
