//! An answer as text or JSON.

use std::fmt::Write;

use super::Answer;
use super::plan::Subject;
use crate::allocate::{ClaimReport, ConstraintReport, Explanation, Group, RequestReport, SelectorReport};
use crate::claim::some;

/// Names of devices or nodes in one line.
const SHOWN_NAMES: usize = 3;
/// Reasons of one selector.
const SHOWN_GROUPS: usize = 8;
/// Nodes explained in full where no node will do.
const SHOWN_NODES: usize = 3;

/// The answer as JSON with a line feed at its end.
///
/// # Errors
/// The serialiser fails, which no answer makes it do.
pub fn render_json(answer: &Answer) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string_pretty(answer)? + "\n")
}

/// The answer for people.
pub fn render_text(answer: &Answer, colour: bool) -> String {
    let mut page = Page { text: String::new(), colour };
    for note in &answer.notes {
        page.line(0, &format!("note: {note}"));
    }
    if !answer.notes.is_empty() {
        page.text.push('\n');
    }
    for (index, subject) in answer.subjects.iter().enumerate() {
        if index > 0 {
            page.text.push('\n');
        }
        page.subject(subject);
    }
    page.text
}

struct Page {
    text: String,
    colour: bool,
}

const GOOD: &str = "32";
const BAD: &str = "31";
const FAINT: &str = "2";

impl Page {
    fn line(&mut self, depth: usize, text: &str) {
        let _ = writeln!(self.text, "{:width$}{text}", "", width = depth * 2);
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn subject(&mut self, subject: &Subject) {
        let title = &subject.subject;
        if let Some(refusal) = &subject.refusal {
            let verdict = self.paint(BAD, "can't be allocated on any node");
            self.line(0, &format!("{title}: {verdict}"));
            self.line(1, refusal);
            return;
        }
        let Some(node) = &subject.node else {
            let verdict = self.paint(BAD, "can't be allocated");
            let names: Vec<String> = subject.nodes.iter().map(|found| found.node.clone()).collect();
            let place = match subject.nodes.as_slice() {
                [only] if only.fatal => "any node".to_owned(),
                _ => some(&names, SHOWN_NODES),
            };
            self.line(0, &format!("{title}: {verdict} on {place}"));
            for found in subject.nodes.iter().take(SHOWN_NODES) {
                self.explanation(found);
            }
            for found in subject.nodes.iter().skip(SHOWN_NODES) {
                self.line(1, &format!("node {}: {}", found.node, found.reasons.join("; ")));
            }
            return;
        };
        let verdict = self.paint(GOOD, &format!("can be allocated on {node}"));
        self.line(0, &format!("{title}: {verdict}"));
        for (index, found) in subject.nodes.iter().enumerate() {
            match index {
                0 => self.explanation(found),
                _ => self.line(1, &format!("not on {}: {}", found.node, found.reasons.join("; "))),
            }
        }
    }

    fn explanation(&mut self, found: &Explanation) {
        let count = found.devices;
        self.line(1, &format!("node {}, {count} device{}", found.node, if count == 1 { "" } else { "s" }));
        for reason in &found.reasons {
            let reason = self.paint(BAD, reason);
            self.line(2, &format!("because: {reason}"));
        }
        for pool in &found.unusable_pools {
            self.line(
                2,
                &format!("pool {} of driver {} is not used: it {}", pool.pool, pool.driver, pool.problem),
            );
        }
        for claim in &found.claims {
            self.claim(claim);
        }
    }

    fn claim(&mut self, report: &ClaimReport) {
        self.line(2, &format!("claim {}", report.claim));
        for request in &report.requests {
            self.request(request, report);
        }
        for constraint in &report.constraints {
            self.constraint(constraint);
        }
        let config =
            report.allocation.as_ref().and_then(|a| a.devices.as_ref()?.config.as_ref()).map_or(0, Vec::len);
        if config > 0 {
            self.line(3, &format!("config: {config} entr{}", if config == 1 { "y" } else { "ies" }));
        }
    }

    fn request(&mut self, request: &RequestReport, report: &ClaimReport) {
        let wants = match (request.all, request.needs) {
            (true, _) => "all devices".to_owned(),
            (false, 1) => "1 device".to_owned(),
            (false, needs) => format!("{needs} devices"),
        };
        let admin = if request.admin_access { ", admin access" } else { "" };
        self.line(
            3,
            &format!("request {}: {wants} of DeviceClass {}{admin}", request.request, request.class),
        );
        for selector in &request.selectors {
            self.selector(selector, &request.class);
        }
        for group in &request.set_aside {
            self.group("set aside", group);
        }
        for group in &request.taken {
            self.line(4, &format!("{}: held by {}", names(&group.devices), group.reason));
        }
        self.line(4, &format!("{} eligible, {} free", request.eligible, request.free));
        let devices = report.allocation.as_ref().and_then(|allocation| allocation.devices.as_ref());
        let results = devices.and_then(|devices| devices.results.as_ref()).into_iter().flatten();
        let got: Vec<String> = results
            .filter(|result| result.request == request.request)
            .map(|result| format!("{}/{}", result.pool, result.device))
            .collect();
        if !got.is_empty() {
            let got = self.paint(GOOD, &got.join(", "));
            self.line(4, &format!("gets {got}"));
        }
    }

    fn selector(&mut self, selector: &SelectorReport, class: &str) {
        let SelectorReport { of_class, index, expression, tested, matched, errors, failed } = selector;
        let of = if *of_class { format!("DeviceClass {class}") } else { "request".to_owned() };
        let counts = format!("{matched} of {tested}");
        let counts = if *matched == 0 { self.paint(BAD, &counts) } else { counts };
        let errors = if *errors > 0 { format!(", no answer for {errors}") } else { String::new() };
        let expression = self.paint(FAINT, expression);
        self.line(4, &format!("selector {index} of {of}: true for {counts}{errors}: {expression}"));
        for group in failed.iter().take(SHOWN_GROUPS) {
            self.group("", group);
        }
        if let Some(more) = failed.len().checked_sub(SHOWN_GROUPS).filter(|more| *more > 0) {
            self.line(5, &format!("and {more} more reasons; -o json has them all"));
        }
    }

    fn group(&mut self, what: &str, group: &Group) {
        let what = if what.is_empty() { String::new() } else { format!("{what}, ") };
        self.line(5, &format!("{what}{}: {}", names(&group.devices), group.reason));
    }

    fn constraint(&mut self, constraint: &ConstraintReport) {
        let ConstraintReport { kind, attribute, requests, can_hold, values, without } = constraint;
        let of = if requests.is_empty() { "all requests".to_owned() } else { requests.join(", ") };
        let verdict = if *can_hold { "can hold".to_owned() } else { self.paint(BAD, "can't hold") };
        self.line(3, &format!("constraint {kind} {attribute} over {of}: {verdict}"));
        let shares: Vec<String> =
            values.iter().map(|share| format!("{} has {}", share.value, share.devices)).collect();
        if !shares.is_empty() {
            self.line(4, &format!("free devices by value: {}", some(&shares, SHOWN_GROUPS)));
        }
        if *without > 0 {
            self.line(4, &format!("{without} free without the attribute, which can't be taken"));
        }
    }
}

fn names(devices: &[String]) -> String {
    format!("{} ({})", devices.len(), some(devices, SHOWN_NAMES))
}
