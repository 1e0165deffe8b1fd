//! What the demonstration says: as text while it happens, as data at the end.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::cli::explain::Subject;
use crate::demo::pod::SeenLink;
use crate::observe::wants_colour;

/// The whole demonstration. Fields are added, never renamed.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tale {
    /// 1; raised when a field changes its meaning.
    pub format_version: u32,
    /// Every pod got its VFs and gave them back.
    pub ok: bool,
    /// What the node has.
    pub node: NodeTale,
    /// How the agent came up.
    pub agent: AgentTale,
    /// One a file.
    pub runs: Vec<Run>,
    /// What is left.
    pub end: EndTale,
}

/// The node.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeTale {
    /// How many.
    pub pfs: usize,
    /// How many.
    pub vfs: usize,
    /// How many of them.
    pub offered: usize,
}

/// The agent.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentTale {
    /// From its start to its registration with the kubelet.
    pub registered_after_ms: u128,
    /// ResourceSlices of the pool.
    pub slices: usize,
    /// Pool generation.
    pub generation: i64,
    /// Published devices.
    pub devices: usize,
}

/// One file.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its name.
    pub file: String,
    /// All its pods did as they should.
    pub ok: bool,
    /// What else should be known, a sentence each.
    pub notes: Vec<String>,
    /// What was allocated and why, and why other devices were not.
    pub explained: Vec<Subject>,
    /// One a pod.
    pub pods: Vec<PodTale>,
}

/// One pod.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTale {
    /// `namespace/name`
    pub pod: String,
    /// One a claim.
    pub claims: Vec<ClaimTale>,
    /// Duration of RunPodSandbox.
    pub attached_in_us: Option<u128>,
    /// Links in the pod's network namespace.
    pub links: Vec<SeenLink>,
    /// What the container gets.
    pub env: Vec<String>,
    /// `Ready` of each device, as the API server has it.
    pub status: Vec<String>,
    /// Links on the host afterwards.
    pub returned: Vec<SeenLink>,
    /// The sentence that would stand in the pod's events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One claim.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimTale {
    /// `namespace/name`
    pub claim: String,
    /// Request and device.
    pub devices: Vec<String>,
    /// Duration of NodePrepareResources.
    pub prepared_in_us: u128,
    /// Path.
    pub cdi_file: String,
    /// Content.
    pub cdi: serde_json::Value,
}

/// The end.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndTale {
    /// From SIGTERM to its end.
    pub agent_stopped_after_ms: u128,
    /// Files that should be gone.
    pub left: Vec<String>,
}

/// A link in one line.
pub fn link_line(link: &SeenLink) -> String {
    let SeenLink { name, hw_addr, mtu, up, addresses } = link;
    let up = if *up { "up" } else { "down" };
    let line = format!("{name:<10} {hw_addr:<17}  mtu {mtu:<5} {up:<4}  {}", addresses.join(" "));
    line.trim_end().to_owned()
}

/// Prints while it happens.
#[derive(Debug)]
pub struct Printer {
    text: bool,
    colour: bool,
    number: usize,
    in_progress: bool,
}

impl Printer {
    /// `text`: to standard output; otherwise only progress is shown, to standard error.
    pub fn new(text: bool) -> Self {
        Self { text, colour: wants_colour(&std::io::stdout()), number: 0, in_progress: false }
    }

    /// Whether colours are wanted.
    pub fn colour(&self) -> bool {
        self.colour
    }

    /// A line that gives way to the next; on terminals only.
    pub fn progress(&mut self, what: &str) {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[2K… {what}");
            self.in_progress = true;
        }
    }

    /// Takes the line of progress away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.in_progress) {
            eprint!("\r\x1b[2K");
        }
    }

    /// A numbered heading.
    pub fn heading(&mut self, title: &str) {
        self.number += 1;
        if !self.text {
            self.progress(title);
            return;
        }
        let line = format!("{}. {title}", self.number);
        self.line(&match self.colour {
            true => format!("\n\x1b[1m{line}\x1b[0m"),
            false => format!("\n{line}"),
        });
    }

    /// What happened, by a word and a text of one or more lines.
    pub fn event(&mut self, word: &str, text: &str) {
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        let word = match (self.colour, word) {
            (true, "refused") => format!("\x1b[31m{word:<10}\x1b[0m"),
            (true, _) => format!("\x1b[32m{word:<10}\x1b[0m"),
            (false, _) => format!("{word:<10}"),
        };
        self.line(format!("   {word} {first}").trim_end());
        for line in lines {
            self.line(format!("              {line}").trim_end());
        }
    }

    /// A text of several lines, set in.
    pub fn block(&mut self, text: &str) {
        for line in text.lines() {
            self.line(format!("   {line}").trim_end());
        }
    }

    /// Something beside the story.
    pub fn note(&mut self, text: &str) {
        match self.text {
            true => self.line(text),
            // Standard output is for programs then.
            false => {
                self.clear();
                eprintln!("{text}");
            }
        }
    }

    fn line(&mut self, line: &str) {
        if self.text {
            self.clear();
            // A reader that has seen enough (head, less) does not end the story.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}

impl Drop for Printer {
    /// Whatever is printed next begins on a line of its own.
    fn drop(&mut self) {
        self.clear();
    }
}
