//! Runs of addresses of one family, and what is left of a run when others are taken out. Sizes go up to a whole IPv6
//! subnet, so nothing here counts one by one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::device::{parse_ip, parse_subnet};

/// Addresses from the first to the last, both in. Written as one address, `first-last`, or a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    v6: bool,
    first: u128,
    last: u128,
}

/// Text that is no span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpanError(String);

impl Span {
    /// One address.
    pub fn one(address: IpAddr) -> Self {
        let at = number(address);
        Self { v6: address.is_ipv6(), first: at, last: at }
    }

    /// All of a subnet, network and broadcast address included.
    pub fn of(net: IpNet) -> Self {
        let (first, last) = (number(net.network()), number(net.broadcast()));
        Self { v6: net.addr().is_ipv6(), first, last }
    }

    /// From one address to another of the same family that is not before it.
    pub fn between(first: IpAddr, last: IpAddr) -> Option<Self> {
        let span = Self { v6: first.is_ipv6(), first: number(first), last: number(last) };
        (first.is_ipv6() == last.is_ipv6() && span.first <= span.last).then_some(span)
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        address(self.v6, self.first)
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        address(self.v6, self.last)
    }

    /// The address so many after the first; none behind the last.
    pub fn at(&self, offset: u128) -> Option<IpAddr> {
        let at = self.first.checked_add(offset).filter(|at| *at <= self.last)?;
        Some(address(self.v6, at))
    }

    /// The address is one of these.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.covers(&Self::one(address))
    }

    /// All of the other are among these.
    pub fn covers(&self, other: &Self) -> bool {
        self.v6 == other.v6 && self.first <= other.first && other.last <= self.last
    }

    /// What is in both.
    pub fn common(&self, other: &Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (self.v6 == other.v6 && first <= last).then_some(Self { v6: self.v6, first, last })
    }

    /// What is left without the others, in order.
    pub fn without(&self, others: &[Self]) -> Vec<Self> {
        let mut left = Vec::new();
        let mut next = Some(self.first);
        for taken in merged(others.iter().filter_map(|other| self.common(other))) {
            if let Some(first) = next.filter(|first| *first < taken.first) {
                left.push(Self { first, last: taken.first - 1, ..*self });
            }
            next = taken.last.checked_add(1);
        }
        left.extend(next.filter(|first| *first <= self.last).map(|first| Self { first, ..*self }));
        left
    }

    fn more(&self) -> u128 {
        self.last - self.first
    }
}

/// Sorted, and joined where they touch or overlap.
pub fn merged(spans: impl IntoIterator<Item = Span>) -> Vec<Span> {
    let mut sorted: Vec<Span> = spans.into_iter().collect();
    sorted.sort_unstable();
    let mut merged: Vec<Span> = Vec::with_capacity(sorted.len());
    for span in sorted {
        match merged.last_mut() {
            Some(before) if before.v6 == span.v6 && span.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(span.last);
            }
            _ => merged.push(span),
        }
    }
    merged
}

/// How many addresses; as many as can be counted.
pub fn count(spans: &[Span]) -> u128 {
    spans.iter().fold(0, |sum: u128, span| sum.saturating_add(span.more()).saturating_add(1))
}

/// The n-th address of them, from 0.
pub fn nth(spans: &[Span], mut n: u128) -> Option<IpAddr> {
    for span in spans {
        if n <= span.more() {
            return span.at(n);
        }
        n -= span.more() + 1;
    }
    None
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn address(v6: bool, number: u128) -> IpAddr {
    match v6 {
        true => IpAddr::V6(Ipv6Addr::from(number)),
        // Made of IPv4 addresses only, so it fits.
        false => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first()),
            false => write!(f, "{}-{}", self.first(), self.last()),
        }
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        if text.contains('/') {
            return parse_subnet(text).map(Self::of).map_err(SpanError);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let parsed = |part: &str| parse_ip(part.trim()).map_err(|why| SpanError(format!("{text:?}: {why}")));
        let (first, last) = (parsed(first)?, parsed(last)?);
        Self::between(first, last).ok_or_else(|| match first.is_ipv4() == last.is_ipv4() {
            true => SpanError(format!("{text:?}: the last address is before the first")),
            false => SpanError(format!("{text:?}: one end is IPv4, the other IPv6")),
        })
    }
}

impl TryFrom<String> for Span {
    type Error = SpanError;

    fn try_from(text: String) -> Result<Self, SpanError> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(text: &[&str]) -> Vec<Span> {
        text.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_left_and_counted_is_what_is_there_one_by_one() {
        let all: Span = "10.0.0.0/27".parse().unwrap();
        for taken in [
            &[][..],
            &["10.0.0.0", "10.0.0.31"],
            &["10.0.0.4-10.0.0.9", "10.0.0.8-10.0.0.12", "10.0.0.13"],
            &["9.0.0.0-10.0.0.3", "10.0.0.30-11.0.0.0", "2001:db8::1"],
            &["10.0.0.0/27"],
        ] {
            let taken = spans(taken);
            let slow: Vec<IpAddr> = (0..32)
                .filter_map(|n| all.at(n))
                .filter(|address| !taken.iter().any(|span| span.contains(*address)))
                .collect();
            let left = all.without(&taken);
            assert_eq!(count(&left), slow.len() as u128, "{taken:?}");
            let fast: Vec<IpAddr> = (0..40).map_while(|n| nth(&left, n)).collect();
            assert_eq!(fast, slow, "{taken:?}");
        }
    }

    #[test]
    fn the_ends_of_both_families_do_not_overflow() {
        let all: Span = "::/0".parse().unwrap();
        assert_eq!(count(&[all]), u128::MAX);
        assert_eq!(nth(&[all], u128::MAX), Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()));
        assert_eq!(all.without(&[all]), []);
        let last = spans(&["255.255.255.255", "255.255.255.254"]);
        assert_eq!(merged(last), spans(&["255.255.255.254-255.255.255.255"]));
    }

    #[test]
    fn what_is_no_span_is_refused_and_what_is_one_is_written_as_it_was_read() {
        for (text, why) in [
            ("172.16.1.226-172.16.1.256", "256 is more than 255"),
            ("172.16.1.9-172.16.1.2", "the last address is before the first"),
            ("172.16.1.9-2001:db8::", "one end is IPv4"),
            ("172.16.1.9/24", "write 172.16.1.0/24"),
            ("", "no IP address"),
        ] {
            let error = text.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        for text in ["172.16.1.9", "172.16.1.9-172.16.1.10", "2001:db8::1-2001:db8::ff"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
    }
}
