//! Forms of names, from the API conventions.

pub use crate::device::{is_label, is_subdomain};

/// What a subdomain looks like.
pub const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
/// What a label looks like.
pub const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

/// Driver names and attribute domains: a subdomain of at most 63, in any case.
pub fn is_driver(text: &str) -> bool {
    text.len() <= 63 && is_subdomain(&text.to_ascii_lowercase())
}

/// `name` or `domain/name`: a C identifier of at most 32, a domain of at most 63. `Err` says what is wrong.
pub fn attribute_key(key: &str) -> Result<(), &'static str> {
    let (domain, name) = key.split_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    if let Some(domain) = domain
        && !is_driver(domain)
    {
        return Err("the domain must be a DNS subdomain of at most 63 characters");
    }
    let mut bytes = name.bytes();
    let starts = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let identifier = starts && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match identifier {
        false => Err("the name must be a C identifier"),
        true if name.len() > 32 => Err("the name may not be more than 32 bytes"),
        true => Ok(()),
    }
}

/// Semantic version 2.0.0: three numbers without leading zeros, optional pre-release and build.
pub fn is_semver(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let pre_part = |part: &str| word(part) && (!part.bytes().all(|b| b.is_ascii_digit()) || number(part));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(pre_part))
        && build.is_none_or(|build| build.split('.').all(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_three_numbers_without_leading_zeros() {
        for good in ["1.2.3", "22.41.1000", "0.0.0", "1.2.3-rc.1+build.05"] {
            assert!(is_semver(good), "{good}");
        }
        for bad in ["22.41", "16.35.0045", "1.2.3.4", "v1.2.3", "1.2.3-01", "1.2.3+", ""] {
            assert!(!is_semver(bad), "{bad}");
        }
    }

    #[test]
    fn keys_are_identifiers_with_an_optional_domain() {
        assert_eq!(attribute_key("sriov-dra.io/pciAddress"), Ok(()));
        for bad in ["pci-address", "", "a/b/c", "-.io/x", &"x".repeat(33)] {
            assert!(attribute_key(bad).is_err(), "{bad}");
        }
    }
}
