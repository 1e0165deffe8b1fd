//! IP addresses and subnets as people write them, with a sentence for what is wrong.

use std::net::IpAddr;

use ipnet::IpNet;

/// One address without prefix length.
///
/// # Errors
/// What is wrong, to stand behind the text.
pub fn parse_ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        match text.split('.').find(|part| part.parse::<u64>().is_ok_and(|octet| octet > 255)) {
            Some(octet) => format!("{octet} is more than 255, the largest part of an IPv4 address"),
            None => "that is no IP address".to_owned(),
        }
    })
}

/// A subnet: an address of which nothing is left behind the prefix.
///
/// # Errors
/// What is wrong and what would be right; begins with the text.
pub fn parse_subnet(text: &str) -> Result<IpNet, String> {
    let Some((address, length)) = text.split_once('/') else {
        return Err(format!("{text:?} has no prefix length; a subnet is written like 172.16.11.0/24"));
    };
    let address = parse_ip(address).map_err(|why| format!("{text:?}: {why}"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let digits = length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    let length = digits.then(|| length.parse::<u8>().ok()).flatten().filter(|length| *length <= most);
    let length = length.ok_or_else(|| format!("{text:?}: the prefix length is not 0 to {most}"))?;
    let net = IpNet::new(address, length).map_err(|error| format!("{text:?}: {error}"))?;
    let network = net.trunc();
    if network == net {
        return Ok(net);
    }
    // The prefix that would fit the address, which is what people most often meant.
    let zeros = match address {
        IpAddr::V4(address) => u32::from(address).trailing_zeros(),
        IpAddr::V6(address) => u128::from(address).trailing_zeros(),
    };
    let fitting = u32::from(most).saturating_sub(zeros);
    Err(format!("{text:?}: the address goes on behind the prefix; write {network}, or {address}/{fitting}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_with_host_bits_is_refused_with_the_two_that_may_have_been_meant() {
        assert_eq!(
            parse_subnet("172.16.11.0/16").unwrap_err(),
            "\"172.16.11.0/16\": the address goes on behind the prefix; write 172.16.0.0/16, or 172.16.11.0/24"
        );
        assert_eq!(parse_subnet("172.16.0.0/16").unwrap().to_string(), "172.16.0.0/16");
        assert_eq!(parse_subnet("2001:db8::/64").unwrap().to_string(), "2001:db8::/64");
    }

    #[test]
    fn what_is_no_subnet_is_refused_with_the_reason() {
        for (text, why) in [
            ("172.16.1.256/24", "256 is more than 255"),
            ("172.16.1.0", "has no prefix length"),
            ("172.16.1.0/33", "not 0 to 32"),
            ("172.16.1.0/024", "not 0 to 32"),
            ("172.16.1.0/", "not 0 to 32"),
            ("rail/24", "no IP address"),
            ("2001:db8::/129", "not 0 to 128"),
        ] {
            let error = parse_subnet(text).unwrap_err();
            assert!(error.contains(why) && error.contains(text), "{text}: {error}");
        }
    }
}
