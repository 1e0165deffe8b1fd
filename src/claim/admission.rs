//! The parameters as a ValidatingAdmissionPolicy: the API server refuses what can't be, before it is stored.
//!
//! CEL over the objects as the API server holds them. Each expression guards itself: a value of another type is false,
//! never an error, so that whoever applies it reads a sentence. What depends on several entries only the driver knows.

use super::decode::{API_VERSION, GRANT_KIND, HEADER, KIND};
use super::fields::{FIELDS, Field, Shape, Who, fields};
use super::grant::VfGrant;
use super::value::{Form, TextForm, one_of};
use crate::device::LABEL_PATTERN;

/// What the policy computes and what must be true.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Name and expression; later ones use earlier ones.
    pub variables: Vec<(String, String)>,
    /// Expression, and the sentence where it is false.
    pub validations: Vec<(String, String)>,
}

/// Fits ResourceClaims, ResourceClaimTemplates and DeviceClasses of resource.k8s.io/v1. The API server takes at most 32
/// configs of 10 KiB, which bounds what every expression costs.
pub fn policy(driver: &str) -> Policy {
    let mut policy = Policy::default();
    policy.entries(driver);
    policy.kinds();
    policy.keys("configs", "", FIELDS);
    for Field { name, shape } in FIELDS {
        if let Shape::Section(inner) = shape {
            policy.section("configs", name, inner);
        }
    }
    policy.grants();
    policy
}

impl Policy {
    fn variable(&mut self, name: &str, expression: impl Into<String>) {
        self.variables.push((name.to_owned(), expression.into()));
    }

    fn require(&mut self, expression: impl Into<String>, message: impl Into<String>) {
        self.validations.push((expression.into(), message.into()));
    }

    /// The parameters that are for this driver.
    fn entries(&mut self, driver: &str) {
        self.variable("isClass", "request.resource.resource == \"deviceclasses\"");
        let or_none = |spec: &str| {
            format!("(has({spec}.devices) && has({spec}.devices.config) ? {spec}.devices.config : [])")
        };
        self.variable(
            "given",
            format!(
                "variables.isClass ? (has(object.spec.config) ? object.spec.config : []) : \
                 request.resource.resource == \"resourceclaimtemplates\" ? {} : {}",
                or_none("object.spec.spec"),
                or_none("object.spec")
            ),
        );
        self.variable(
            "ours",
            format!(
                "variables.given.filter(c, has(c.opaque) && c.opaque.driver == {}).map(c, c.opaque.parameters)",
                text(driver)
            ),
        );
    }

    fn kinds(&mut self) {
        let is = |kind: &str| format!("has(p.kind) && p.kind == {}", text(kind));
        self.variable("configs", format!("variables.ours.filter(p, {})", is(KIND)));
        self.variable("grants", format!("variables.ours.filter(p, {})", is(GRANT_KIND)));
        self.require(
            format!("variables.ours.all(p, has(p.apiVersion) && p.apiVersion == {})", text(API_VERSION)),
            format!("parameters: apiVersion must be {API_VERSION}"),
        );
        self.require(
            format!("variables.ours.all(p, has(p.kind) && p.kind in {})", texts(&[KIND, GRANT_KIND])),
            format!("parameters: kind must be {KIND}, or {GRANT_KIND} in a DeviceClass"),
        );
        self.require(
            "variables.isClass || size(variables.grants) == 0",
            format!("kind: {GRANT_KIND} counts only in a DeviceClass, a claim can't grant itself anything; take the entry out"),
        );
    }

    /// No keys but the known ones; those of later versions only as null.
    fn keys(&mut self, list: &str, section: &str, fields: &[Field]) {
        let names = |later: bool| -> Vec<&str> {
            let fields = fields.iter().filter(|field| matches!(field.shape, Shape::Later) == later);
            fields.map(|field| field.name).collect()
        };
        let (known, later) = (names(false), names(true));
        let (header, place) = match section.is_empty() {
            true => (HEADER, KIND.to_owned()),
            false => (&[][..], section.to_owned()),
        };
        let mut good = format!("k in {}", texts(&[header, &known].concat()));
        if !later.is_empty() {
            good = format!("{good} || k in {} && p[k] == null", texts(&later));
        }
        self.require(
            format!("variables.{list}.all(p, p.all(k, {good}))"),
            format!("{place}: it has an unknown field, known are {}", known.join(", ")),
        );
    }

    /// One section, and those in it; `parent` is the list of the objects that it is in.
    fn section(&mut self, parent: &str, path: &str, inner: &[Field]) {
        let name = path.rsplit('.').next().unwrap_or(path);
        let list = path.replace('.', "_");
        self.require(
            format!("variables.{parent}.all(p, !has(p.{name}) || p.{name} == null || type(p.{name}) == map)"),
            format!("{path}: must be an object"),
        );
        self.variable(
            &list,
            format!("variables.{parent}.filter(p, has(p.{name}) && type(p.{name}) == map).map(p, p.{name})"),
        );
        self.keys(&list, path, inner);
        for Field { name: field, shape } in inner {
            let of_field = format!("{path}.{field}");
            let leaf = match shape {
                Shape::Value(leaf) => leaf,
                Shape::Section(inner) => {
                    self.section(&list, &of_field, inner);
                    continue;
                }
                Shape::Later => continue,
            };
            let given = format!("p.{field}");
            let unset = format!("!has({given}) || {given} == null");
            let (good, must) = good(&given, &leaf.value.form());
            self.require(
                format!("variables.{list}.all(p, {unset} || {good})"),
                format!("{of_field}: must be {must}"),
            );
            if leaf.who == Who::Class {
                self.require(
                    format!("variables.isClass || variables.{list}.all(p, {unset})"),
                    format!("{of_field}: only a DeviceClass may set this; leave it out of the claim"),
                );
            }
        }
    }

    fn grants(&mut self) {
        let [namespaces, allow] = VfGrant::FIELDS;
        let [field, values] = VfGrant::OF_ALLOWANCE;
        let known = [HEADER, &VfGrant::FIELDS].concat();
        self.require(
            format!("variables.grants.all(g, g.all(k, k in {}))", texts(&known)),
            format!("{GRANT_KIND}: it has an unknown field, known are {}", VfGrant::FIELDS.join(", ")),
        );
        let name = format!("type(n) == string && n.matches({})", text(&format!("^{LABEL_PATTERN}$")));
        self.require(
            format!(
                "variables.grants.all(g, !has(g.{namespaces}) || g.{namespaces} == null || \
                 type(g.{namespaces}) == list && g.{namespaces}.all(n, {name}))"
            ),
            format!("{namespaces}: must be a list of names of namespaces"),
        );
        self.require(
            format!("variables.grants.all(g, has(g.{allow}) && type(g.{allow}) == list && size(g.{allow}) > 0)"),
            format!("{allow}: must be a list with at least one entry such as {{field: vf.vlan, values: [\"100-199\"]}}"),
        );
        // Lists of those that can be judged on.
        self.variable(
            "allowances",
            format!(
                "variables.grants.filter(g, has(g.{allow}) && type(g.{allow}) == list)\
                 .map(g, g.{allow}.filter(a, type(a) == map))"
            ),
        );
        self.require(
            format!(
                "variables.grants.all(g, !has(g.{allow}) || type(g.{allow}) != list || \
                 g.{allow}.all(a, type(a) == map && a.all(k, k in {})))",
                texts(&VfGrant::OF_ALLOWANCE)
            ),
            format!("{allow}: each entry must be an object with {}", VfGrant::OF_ALLOWANCE.join(", ")),
        );
        let granted: Vec<_> = fields().into_iter().filter(|field| field.leaf.who == Who::Granted).collect();
        let names: Vec<&str> = granted.iter().map(|field| field.path.as_str()).collect();
        self.require(
            format!(
                "variables.allowances.all(l, l.all(a, has(a.{field}) && a.{field} in {}))",
                texts(&names)
            ),
            format!("{allow}: {field} must be one that can be granted: {}", names.join(", ")),
        );
        self.require(
            format!(
                "variables.allowances.all(l, l.all(a, !has(a.{values}) || a.{values} == null || \
                 type(a.{values}) == list && size(a.{values}) > 0))"
            ),
            format!("{allow}: {values} must be a list with at least one value; leave it out for any value"),
        );
        for of in &granted {
            let (good, must) = allowed(&of.leaf.value.form());
            self.require(
                format!(
                    "variables.allowances.all(l, l.all(a, !(has(a.{field}) && a.{field} == {} && has(a.{values}) && \
                     type(a.{values}) == list) || a.{values}.all(x, {good})))",
                    text(&of.path)
                ),
                format!("{allow}: {values} of {} must be {must}", of.path),
            );
        }
    }
}

/// When a value is good, and how that reads after "must be".
fn good(given: &str, form: &Form) -> (String, String) {
    match form {
        Form::Switch => (format!("type({given}) == bool"), "true or false".to_owned()),
        Form::Number { least, most, shown, .. } => {
            (number(given, *least, *most), format!("a whole number, {shown}"))
        }
        Form::Word(words) => (format!("{given} in {}", texts(words)), one_of(words)),
        Form::Text(form) => (matching(given, form), form.what.to_owned()),
        Form::List { of, most } => (
            format!(
                "type({given}) == list && size({given}) <= {most} && {given}.all(x, {})",
                matching("x", of)
            ),
            format!("a list of at most {most}, each {}", of.what),
        ),
        Form::Objects { fields, most } => {
            let names: Vec<&str> = fields.iter().map(|(name, ..)| *name).collect();
            let mut all = vec![format!("type(x) == map && x.all(k, k in {})", texts(&names))];
            for (name, form, required) in fields {
                let good = matching(&format!("x.{name}"), form);
                all.push(match required {
                    true => format!("has(x.{name}) && {good}"),
                    false => format!("(!has(x.{name}) || x.{name} == null || {good})"),
                });
            }
            let each: Vec<String> =
                fields.iter().map(|(name, form, _)| format!("{name} {}", form.what)).collect();
            (
                format!(
                    "type({given}) == list && size({given}) <= {most} && {given}.all(x, {})",
                    all.join(" && ")
                ),
                format!("a list of at most {most} objects with {}", each.join(" and ")),
            )
        }
    }
}

fn number(given: &str, least: u64, most: u64) -> String {
    format!("type({given}) == int && {given} >= {least} && {given} <= {most}")
}

fn matching(given: &str, form: &TextForm) -> String {
    let TextForm { pattern, except, is_cidr, .. } = form;
    let mut all = vec![format!("type({given}) == string")];
    match is_cidr {
        true => all.push(format!("isCIDR({given})")),
        false => all.push(format!("{given}.matches({})", text(&format!("^{pattern}$")))),
    }
    if !except.is_empty() {
        all.push(format!("!({given} in {})", texts(except)));
    }
    all.join(" && ")
}

/// Grants of one class whose ranges are looked into. With 32 of 10 KiB each the expression would cost more than the API
/// server allows; beyond this only their form is judged here.
const EXACT_GRANTS: usize = 8;

/// The same for one of a grant's values, `x`.
fn allowed(form: &Form) -> (String, String) {
    match form {
        Form::Number { least, most, shown, .. } => {
            let range = "type(x) == string && x.matches(\"^[0-9]{1,10}(-[0-9]{1,10})?$\")";
            let ends = format!("x.split(\"-\").all(n, int(n) >= {least} && int(n) <= {most})");
            let order = "int(x.split(\"-\")[0]) <= int(x.split(\"-\")[size(x.split(\"-\")) - 1])";
            let exact = format!("size(variables.grants) > {EXACT_GRANTS} || {ends} && {order}");
            (
                format!("{} || {range} && ({exact})", number("x", *least, *most)),
                format!("whole numbers, or ranges with a hyphen, within {shown}"),
            )
        }
        Form::Text(TextForm { pattern, what, ranges: true, .. })
        | Form::List { of: TextForm { pattern, what, .. }, .. } => (
            format!("type(x) == string && x.matches({})", text(&format!("^{pattern}(-{pattern})?$"))),
            format!("{what}, or a range of two with a hyphen"),
        ),
        other => good("x", other),
    }
}

/// A text in CEL.
fn text(of: &str) -> String {
    format!("\"{}\"", of.replace('\\', "\\\\").replace('"', "\\\""))
}

fn texts(of: &[&str]) -> String {
    format!("[{}]", of.iter().map(|of| text(of)).collect::<Vec<_>>().join(", "))
}
