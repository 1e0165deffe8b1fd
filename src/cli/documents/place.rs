//! Where an object stands, and faults with their place.

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::{Serialize, Serializer};

use super::lines::Lines;

/// A file that was read.
#[derive(Debug)]
pub struct File {
    name: String,
    text: String,
    /// Asked for only where there is a fault.
    lines: OnceLock<Vec<Lines>>,
}

impl File {
    /// A file of this name with this content.
    pub fn new(name: &str, text: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), text: text.to_owned(), lines: OnceLock::new() })
    }
}

/// An object in a file.
#[derive(Debug, Clone)]
pub struct Place {
    file: Arc<File>,
    /// From 0; documents without anything in them don't count.
    document: usize,
    /// In a list of objects, from 0.
    item: Option<usize>,
    kind: String,
    name: String,
}

impl Place {
    /// The object of this kind and name in a document, or in a list there. Both may be empty, where they are not known.
    pub fn new(file: &Arc<File>, document: usize, item: Option<usize>, kind: &str, name: &str) -> Self {
        Self { file: Arc::clone(file), document, item, kind: kind.to_owned(), name: name.to_owned() }
    }

    /// A fault of a field; of the whole object, where it is empty.
    pub fn finding(&self, field: impl Into<String>, problem: impl Into<String>) -> Finding {
        Finding { place: self.clone(), field: field.into(), problem: problem.into(), with: None }
    }

    /// `claim.yaml, document 2, item 1`
    pub fn document(&self) -> String {
        let item = self.item.map(|item| format!(", item {}", item + 1)).unwrap_or_default();
        format!("{}, document {}{item}", self.file.name, self.document + 1)
    }

    /// Of a field.
    pub fn line(&self, field: &str) -> Option<u64> {
        let lines =
            self.file.lines.get_or_init(|| Lines::of_documents(&self.file.text)).get(self.document)?;
        Some(match self.item {
            Some(item) => lines.line(&format!("items[{item}].{field}")),
            None => lines.line(field),
        })
    }

    fn object(&self) -> String {
        match (self.kind.is_empty(), self.name.is_empty()) {
            (true, _) => String::new(),
            (false, true) => format!(" ({})", self.kind),
            (false, false) => format!(" ({} {})", self.kind, self.name),
        }
    }

    /// One object, not two that look alike.
    pub fn same_object(&self, other: &Self) -> bool {
        self.file.name == other.file.name && self.document == other.document && self.item == other.item
    }
}

/// `claim.yaml, document 2 (ResourceClaim mine)`
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.document(), self.object())
    }
}

/// One fault.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The object.
    pub place: Place,
    /// `spec.devices.requests[0].name`; empty for the whole object.
    pub field: String,
    /// What is wrong and what would be right, without a full stop.
    pub problem: String,
    /// It is wrong only together with this other object.
    pub with: Option<String>,
}

impl Finding {
    /// The same is said of the same.
    pub fn same(&self, other: &Self) -> bool {
        self.place.same_object(&other.place) && self.field == other.field && self.problem == other.problem
    }
}

/// `claim.yaml:12, document 2 (ResourceClaim mine): spec.x: is missing`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { file, document, item, .. } = &self.place;
        f.write_str(&file.name)?;
        if let Some(line) = self.place.line(&self.field) {
            write!(f, ":{line}")?;
        }
        write!(f, ", document {}", document + 1)?;
        if let Some(item) = item {
            write!(f, ", item {}", item + 1)?;
        }
        write!(f, "{}: ", self.place.object())?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)?;
        match &self.with {
            Some(with) => write!(f, " (with {with})"),
            None => Ok(()),
        }
    }
}

/// For programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    file: &'a str,
    line: Option<u64>,
    document: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<usize>,
    kind: &'a str,
    name: &'a str,
    field: &'a str,
    problem: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    with: Option<&'a str>,
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Place { file, document, item, kind, name } = &self.place;
        let shown = Shown {
            file: &file.name,
            line: self.place.line(&self.field),
            document: document + 1,
            item: item.map(|item| item + 1),
            kind,
            name,
            field: &self.field,
            problem: &self.problem,
            with: self.with.as_deref(),
        };
        shown.serialize(serializer)
    }
}
