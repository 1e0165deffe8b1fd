//! Why a selector is not true for a device, in one sentence that many devices share.

use super::judge;
use super::pools::Candidate;
use crate::policy::AttributeValue;
use crate::policy::cel::{CelError, DeviceFacts, Named, Selector, conjuncts};

/// The parts of a selector, each runnable by itself.
#[derive(Debug)]
pub(super) struct Dissected {
    whole: Selector,
    /// Text and program of each part of an `&&` chain; empty for anything else.
    parts: Vec<(String, Selector)>,
}

impl Dissected {
    pub fn new(expression: &str) -> Option<Self> {
        let whole = Selector::compile(expression).ok()?;
        let texts = conjuncts(expression);
        let compiled: Option<Vec<_>> =
            texts.iter().map(|text| Some((one_line(text), Selector::compile(text).ok()?))).collect();
        Some(Self { whole, parts: compiled.filter(|parts| parts.len() > 1).unwrap_or_default() })
    }

    /// `pfName is "ens1f1", wanted pfName == "ens1f0"` and the like; the same text for devices it is the same for.
    pub fn reason(
        &self,
        candidate: &Candidate<'_>,
        facts: Option<&DeviceFacts>,
        error: Option<&CelError>,
    ) -> String {
        let part = facts.and_then(|facts| {
            let mut parts = self.parts.iter();
            parts.find(|(_, part)| part.test(facts) != Ok(true))
        });
        let selector = part.map_or(&self.whole, |(_, part)| part);
        let mut seen: Vec<String> = selector.names().iter().map(|named| seen(candidate, named)).collect();
        if seen.is_empty() && selector.expression().contains("device.driver") {
            seen.push(format!("device.driver is {:?}", candidate.id.driver));
        }
        let seen = seen.join(", ");
        match (error, part) {
            (Some(error), _) if seen.is_empty() => format!("no answer: {error}"),
            (Some(error), _) => format!("no answer: {error} ({seen})"),
            (None, Some((text, _))) => {
                format!("{seen}{}not true: {text}", if seen.is_empty() { "" } else { "; " })
            }
            (None, None) if seen.is_empty() => "not true".to_owned(),
            (None, None) => seen,
        }
    }
}

/// What a device has for a name, in words.
fn seen(candidate: &Candidate<'_>, named: &Named) -> String {
    let Named { capacity, domain, name } = named;
    let (driver, device) = (&candidate.id.driver, candidate.device);
    let value = if *capacity {
        let capacities = device.capacity.as_ref();
        let full = format!("{domain}/{name}");
        capacities
            .and_then(|all| all.get(&full).or_else(|| all.get(name).filter(|_| domain == driver)))
            .map(|capacity| capacity.value.0.clone())
    } else {
        judge::attribute(driver, device, domain, name).map(|attribute| {
            judge::value(attribute).map_or_else(|| "a list".to_owned(), |value| shown(&value))
        })
    };
    let what = if *capacity { "capacity " } else { "" };
    match value {
        Some(value) => format!("{what}{domain}/{name} is {value}"),
        None => format!("{what}{domain}/{name} is not published by this device"),
    }
}

/// A value as a selector would write it.
pub(super) fn shown(value: &AttributeValue) -> String {
    match value {
        AttributeValue::Bool(flag) => flag.to_string(),
        AttributeValue::Int(number) => number.to_string(),
        AttributeValue::String(text) => format!("{text:?}"),
        AttributeValue::Version(text) => format!("version {text}"),
    }
}

pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
