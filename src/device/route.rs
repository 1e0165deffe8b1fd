//! Routes and rules of a network namespace.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The table that every destination is looked up in last (`RT_TABLE_MAIN`, include/uapi/linux/rtnetlink.h).
pub const MAIN_TABLE: u32 = 254;

/// A unicast route through one interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Destination, host bits zero.
    pub to: IpNet,
    /// Next hop; none where the destination is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// The next hop is on the link though no address of the interface covers it (`RTNH_F_ONLINK`).
    #[serde(default)]
    pub on_link: bool,
    /// Table.
    pub table: u32,
    /// Source address for those who chose none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Of several routes to one destination the least metric wins; 0 is IPv4's default.
    #[serde(default)]
    pub metric: u32,
}

/// A route as it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledRoute {
    /// Index of its interface.
    pub link: u32,
    /// What it is.
    pub route: Route,
}

/// Sends what comes from an address to a table of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Source, whole.
    pub from: IpAddr,
    /// Table.
    pub table: u32,
    /// The least is asked first; main's own is 32766.
    pub priority: u32,
}

impl Route {
    /// Covers every destination, or half of them: `0.0.0.0/0`, and `0.0.0.0/1` with which people get round that.
    pub fn is_default(&self) -> bool {
        covers_half(&self.to)
    }
}

/// `true` for a destination of everything, or of half of it.
pub fn covers_half(to: &IpNet) -> bool {
    to.prefix_len() <= 1
}

/// As `ip route` shows it, without the interface.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to.prefix_len() {
            0 => f.write_str("default")?,
            _ => write!(f, "{}", self.to)?,
        }
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if self.on_link {
            f.write_str(" onlink")?;
        }
        if self.table != MAIN_TABLE {
            write!(f, " table {}", self.table)?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: from {} lookup {}", self.priority, self.from, self.table)
    }
}
