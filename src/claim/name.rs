//! Names of interfaces in the pod: explicit ones, and templates such as `net{n}`.

use serde_json::Value as Json;

use super::NameSpec;
use super::decode::At;
use super::fields::VfConfig;
use super::value::{Datum, Form, Slot, TextForm, Value};
use crate::device::{IfName, IfNameError};

/// What an interface is called when neither class nor claim says a name.
pub const DEFAULT_NAME_TEMPLATE: &str = "net{n}";

/// Longest interface name, bytes (`IFNAMSIZ` - 1, include/uapi/linux/if.h).
const MAX_LEN: usize = 15;

/// Largest `{n}` a template must have room for.
const MAX_N: u32 = 999;

/// Names no VF gets: `lo` is the pod's loopback, `eth0` what container runtimes call the pod's own interface, and
/// `all` and `default` are folders of /proc/sys/net/ipv4/conf (`sysctl_dev_name_is_allowed`, net/ipv4/devinet.c).
const TAKEN: &[(&str, &str)] = &[
    ("lo", "the pod's loopback interface has that name"),
    ("eth0", "the pod's own network interface has that name"),
    ("all", "the kernel refuses that name"),
    ("default", "the kernel refuses that name"),
];

const PLACEHOLDERS: &[&str] = &["n", "request", "pf", "rail"];

/// What is known of a VF when its interface gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NameFacts<'a> {
    /// Counts per pod.
    pub n: u32,
    /// Interface name of the PF.
    pub pf: Option<&'a str>,
    /// The VF's `rail` attribute.
    pub rail: Option<&'a str>,
}

/// A template that gives no usable name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The VF has no such fact.
    #[error("interface.name {template:?} asks for {{{placeholder}}}, which this VF does not have")]
    Missing {
        /// The template.
        template: String,
        /// Without braces.
        placeholder: String,
    },
    /// Filled in, it is no name for an interface.
    #[error("interface.name {template:?} becomes {name:?}: {problem}")]
    Unusable {
        /// The template.
        template: String,
        /// What it became.
        name: String,
        /// Why that is no good.
        problem: String,
    },
}

impl NameSpec {
    /// There is a next name to try when one is taken.
    pub fn counts(&self) -> bool {
        matches!(self, Self::Template(template) if template.contains("{n}"))
    }

    /// The name for one VF. Errors: a placeholder without a value, a result that is no name for an interface.
    pub fn render(&self, facts: NameFacts<'_>) -> Result<IfName, NameError> {
        let template = match self {
            Self::Explicit(name) => return Ok(name.clone()),
            Self::Template(template) => template,
        };
        let n = facts.n.to_string();
        let mut name = template.clone();
        for (placeholder, value) in [("n", Some(n.as_str())), ("pf", facts.pf), ("rail", facts.rail)] {
            let braced = format!("{{{placeholder}}}");
            if name.contains(&braced) {
                let missing =
                    || NameError::Missing { template: template.clone(), placeholder: placeholder.to_owned() };
                name = name.replace(&braced, value.ok_or_else(missing)?);
            }
        }
        check(&name).map_err(|problem| NameError::Unusable { template: template.clone(), name, problem })
    }

    /// Fills in `{request}`, the only placeholder whose value the claim itself holds; a name without any other
    /// placeholder is explicit from then on. Errors: one sentence.
    pub(super) fn for_request(&self, request: &str) -> Result<Self, String> {
        let Self::Template(template) = self else {
            return Ok(self.clone());
        };
        let filled = template.replace("{request}", request);
        let problem = |problem: String| match &filled == template {
            true => problem,
            false => format!("for request {request} {template:?} becomes {filled:?}: {problem}"),
        };
        if filled.contains('{') {
            check_longest(&filled).map_err(problem)?;
            Ok(Self::Template(filled))
        } else {
            check(&filled).map(Self::Explicit).map_err(problem)
        }
    }
}

/// A name, or a template of one.
pub(super) struct Name(pub Slot<NameSpec>);

const WHAT: &str = "a name such as \"rdma0\" or \"net{n}\"";

impl Value for Name {
    fn form(&self) -> Form {
        // ASCII without what the kernel refuses, and braces only around placeholders, each of which is one character at
        // least.
        let placeholders = PLACEHOLDERS.join("|");
        let pattern = format!("([!-$&-.0-9;-z|~]|[{{]({placeholders})[}}]){{1,{MAX_LEN}}}");
        let except = TAKEN.iter().map(|(name, _)| *name).chain([".", ".."]).collect();
        Form::Text(TextForm { what: WHAT, pattern, except, is_cidr: false, ranges: false })
    }

    fn read(&self, at: &mut At<'_>, given: &Json, config: &mut VfConfig) {
        *(self.0.put)(config) =
            at.text(given, WHAT).and_then(|text| parse(text).map_or_else(|why| at.fault(why), Some));
    }

    fn overlay(&self, config: &mut VfConfig, later: &VfConfig) {
        self.0.overlay(config, later);
    }

    fn of(&self, config: &VfConfig) -> Option<Datum> {
        (self.0.get)(config).as_ref().map(|name| {
            Datum::Text(match name {
                NameSpec::Explicit(name) => name.to_string(),
                NameSpec::Template(template) => template.clone(),
            })
        })
    }
}

fn parse(text: &str) -> Result<NameSpec, String> {
    let mut rest = text;
    let mut placeholders = 0;
    while let Some(open) = rest.find(['{', '}']) {
        let inner = rest
            .get(open..)
            .and_then(|brace| brace.strip_prefix('{'))
            .and_then(|inner| inner.split_once('}'));
        let Some((placeholder, after)) = inner else {
            return Err(format!(
                "{text:?} has a brace without its counterpart, placeholders look like {{n}}"
            ));
        };
        if !PLACEHOLDERS.contains(&placeholder) {
            return Err(format!(
                "{text:?}: unknown placeholder {{{placeholder}}}, known are {{n}}, {{request}}, {{pf}}, {{rail}}"
            ));
        }
        placeholders += 1;
        rest = after;
    }
    if placeholders == 0 {
        return check(text).map(NameSpec::Explicit);
    }
    // A request's name is at least one character, as the PF's name and the rail are.
    check_longest(&text.replace("{request}", "r"))?;
    Ok(NameSpec::Template(text.to_owned()))
}

/// A template must be a name with the largest number in it, and the shortest PF name and rail.
fn check_longest(template: &str) -> Result<(), String> {
    let longest = template.replace("{n}", &MAX_N.to_string()).replace("{pf}", "p").replace("{rail}", "0");
    let becomes =
        |problem: String| format!("{template:?} must leave room for numbers up to {MAX_N}: {problem}");
    if longest.len() > MAX_LEN {
        let over = longest.len() - MAX_LEN;
        return Err(becomes(format!(
            "{longest:?} has {} characters, {over} more than an interface name can have",
            longest.len()
        )));
    }
    check(&longest).map(drop)
}

fn check(name: &str) -> Result<IfName, String> {
    if let Some((_, why)) = TAKEN.iter().find(|(taken, _)| *taken == name) {
        return Err(format!("{name:?} can't be the name of a VF's interface: {why}"));
    }
    IfName::new(name).map_err(|error: IfNameError| error.to_string())
}
