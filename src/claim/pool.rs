//! The name of an AddressPool in a claim, in which placeholders stand for the VF's PF or rail.

use serde_json::Value as Json;

use super::decode::At;
use super::fields::VfConfig;
use super::value::{Datum, Form, Slot, Span, TextForm, Value};

const WHAT: &str = "the name of an AddressPool such as \"rail1\" or \"rail{rail}\"";

/// A part of a name, between dots (RFC 1123, as the API server names objects).
const LABEL: &str = "([a-z0-9-]|[{](rail|pf)[}])+";

/// Longest name of an object, bytes.
const MAX_LEN: usize = 253;

/// The name of a pool, or a template of one.
pub(super) struct PoolName(pub Slot<String>);

impl Value for PoolName {
    fn form(&self) -> Form {
        let pattern = format!("{LABEL}(\\.{LABEL})*");
        Form::Text(TextForm { what: WHAT, pattern, except: Vec::new(), is_cidr: false, ranges: false })
    }

    fn read(&self, at: &mut At<'_>, given: &Json, config: &mut VfConfig) {
        *(self.0.put)(config) =
            at.text(given, WHAT).and_then(|text| parse(text).map_or_else(|why| at.fault(why), Some));
    }

    fn overlay(&self, config: &mut VfConfig, later: &VfConfig) {
        self.0.overlay(config, later);
    }

    fn of(&self, config: &VfConfig) -> Option<Datum> {
        (self.0.get)(config).clone().map(Datum::Text)
    }

    fn granted(&self, at: &mut At<'_>, given: &Json) -> Option<Span> {
        let text = at.text(given, WHAT)?;
        parse(text).map_or_else(|why| at.fault(why), |name| Some(Span::one(Datum::Text(name))))
    }
}

fn parse(text: &str) -> Result<String, String> {
    // What stands for a value is a letter, to judge the rest.
    let filled = pool_name(text, Some("a"), Some("0")).unwrap_or_default();
    let refused = |why: &str| Err(format!("{text:?} is not {WHAT}: {why}"));
    if let Some(open) = filled.find(['{', '}']) {
        let rest = filled.get(open..).unwrap_or_default();
        return refused(&format!("{rest:?} is no placeholder; there are {{rail}} and {{pf}}"));
    }
    if text.len() > MAX_LEN {
        return refused(&format!("it is longer than {MAX_LEN} bytes"));
    }
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let good_label = |label: &str| {
        !label.is_empty() && label.bytes().all(good) && !label.starts_with('-') && !label.ends_with('-')
    };
    if !filled.split('.').all(good_label) {
        return refused(
            "names of objects have lower-case letters, digits, hyphens and dots only, none of these at an end",
        );
    }
    Ok(text.to_owned())
}

/// Fills in the template. Errors: the placeholder that the VF has no value for.
pub fn pool_name(template: &str, pf: Option<&str>, rail: Option<&str>) -> Result<String, &'static str> {
    let mut name = template.to_owned();
    for (placeholder, value) in [("{pf}", pf), ("{rail}", rail)] {
        if name.contains(placeholder) {
            name = name.replace(placeholder, value.ok_or(placeholder)?);
        }
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pools_are_names_of_objects_with_placeholders() {
        for good in ["rails", "rail{rail}", "team-a.{pf}", "{rail}"] {
            assert_eq!(parse(good), Ok(good.to_owned()));
        }
        for (bad, why) in [
            ("", "names of objects"),
            ("Rails", "names of objects"),
            ("-a", "names of objects"),
            ("a..b", "names of objects"),
            ("rail{n}", "\"{n}\" is no placeholder"),
            ("rail{rail", "is no placeholder"),
        ] {
            let refused = parse(bad).unwrap_err();
            assert!(refused.contains(why), "{bad:?}: {refused}");
        }
    }

    #[test]
    fn a_placeholder_without_value_is_named() {
        assert_eq!(pool_name("rail{rail}", Some("ens1f0"), None), Err("{rail}"));
        assert_eq!(pool_name("{pf}-{rail}", Some("ens1f0"), Some("7")), Ok("ens1f0-7".to_owned()));
    }
}
