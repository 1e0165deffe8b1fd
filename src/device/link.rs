//! Interface names and hardware addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network interface name the kernel accepts (`dev_valid_name`, net/core/dev.c): 1 to 15 bytes, no `/`, no `:`,
/// no white space, not `.` or `..`. `%` is refused too: the kernel reads it as a template.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

/// Why a text is no interface name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IfNameError {
    /// No characters at all.
    #[error("an interface name must not be empty")]
    Empty,
    /// More than 15 bytes.
    #[error("interface name {0:?} has {1} characters, at most 15 are possible")]
    TooLong(String, usize),
    /// A character the kernel refuses.
    #[error("interface name {0:?} contains {1:?}, which the kernel refuses")]
    BadCharacter(String, char),
    /// `.` or `..`.
    #[error("interface name {0:?} is reserved")]
    Reserved(String),
}

impl IfName {
    /// Checks and takes a name.
    pub fn new(name: impl Into<String>) -> Result<Self, IfNameError> {
        let name = name.into();
        if name.is_empty() {
            return Err(IfNameError::Empty);
        }
        if name == "." || name == ".." {
            return Err(IfNameError::Reserved(name));
        }
        let bad = name
            .chars()
            .find(|c| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control() || !c.is_ascii());
        // Characters first: what is left is ASCII, where characters and bytes are the same.
        if bad.is_none() && name.len() > 15 {
            let len = name.len();
            return Err(IfNameError::TooLong(name, len));
        }
        match bad {
            Some(bad) => Err(IfNameError::BadCharacter(name, bad)),
            None => Ok(Self(name)),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for IfName {
    type Error = IfNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.0
    }
}

impl AsRef<str> for IfName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A link-layer address: 6 bytes for Ethernet, 20 for IPoIB. Written `aa:bb:cc:dd:ee:ff`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HwAddr(Vec<u8>);

impl HwAddr {
    /// Takes the bytes as the kernel gives them.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Six bytes: an Ethernet address, which may be set; 20 bytes (IPoIB) may not.
    pub fn is_ethernet(&self) -> bool {
        self.0.len() == 6
    }
}

impl fmt::Display for HwAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl FromStr for HwAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(':')
            .map(|part| match part.as_bytes() {
                // Not by length alone: a number may have a sign.
                [a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => u8::from_str_radix(part, 16).ok(),
                _ => None,
            })
            .collect::<Option<Vec<u8>>>()
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a hardware address such as 02:00:00:00:00:01"))
    }
}

impl TryFrom<String> for HwAddr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<HwAddr> for String {
    fn from(address: HwAddr) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_follow_the_kernel_rules() {
        for good in ["net1", "a", "fifteen-chars-x", "eth0.100"] {
            assert_eq!(IfName::new(good).unwrap().as_str(), good);
        }
        for (bad, says) in [
            ("", "must not be empty"),
            ("sixteen-chars-xx", "has 16 characters"),
            ("a/b", "contains '/'"),
            ("a:b", "contains ':'"),
            ("a b", "contains ' '"),
            ("net%d", "contains '%'"),
            (".", "reserved"),
            ("..", "reserved"),
        ] {
            let error = IfName::new(bad).unwrap_err().to_string();
            assert!(error.contains(says), "{bad:?}: {error}");
        }
    }

    #[test]
    fn hardware_addresses_round_trip() {
        let text = "02:00:5e:10:00:ff";
        let address: HwAddr = text.parse().unwrap();
        assert_eq!(address.to_string(), text);
        assert!(address.is_ethernet());
        assert!("02:00:5e".parse::<HwAddr>().is_ok_and(|a| !a.is_ethernet()));
        assert!("2:0:5e".parse::<HwAddr>().is_err());
        assert!("+2:00:5e:00:00:01".parse::<HwAddr>().is_err());
    }
}
