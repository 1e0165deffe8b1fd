//! Forms of names, from the API conventions (RFC 1123 as Kubernetes reads it).

/// Most bytes of a label.
pub const LONGEST_LABEL: usize = 63;
/// Most bytes of a subdomain.
pub const LONGEST_SUBDOMAIN: usize = 253;

/// What [`is_label`] says, as a regular expression (RE2) for the whole text.
pub const LABEL_PATTERN: &str = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";

/// Lower-case letters, digits and inner hyphens, at most 63: names of namespaces and of requests.
pub fn is_label(text: &str) -> bool {
    text.len() <= LONGEST_LABEL && is_part(text)
}

/// Parts with dots between them, at most 253 in all: names of objects. A part may be longer than a label.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= LONGEST_SUBDOMAIN && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.iter().all(|b| inner(*b) || *b == b'-')
        && bytes.first().is_some_and(|b| inner(*b))
        && bytes.last().is_some_and(|b| inner(*b))
}
