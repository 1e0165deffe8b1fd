//! The kinds of value that a field can have. Each knows how to read one, its bounds, and what a grant may say of it, so
//! that reader, schema, admission policy and docs have one source.

use std::fmt;
use std::ops::RangeInclusive;

use serde_json::Value as Json;

use super::decode::{At, did_you_mean};
use super::fields::VfConfig;
use crate::device::HwAddr;

/// Where a config keeps a value.
pub(super) struct Slot<T: 'static> {
    /// For reading.
    pub get: fn(&VfConfig) -> &Option<T>,
    /// For writing.
    pub put: fn(&mut VfConfig) -> &mut Option<T>,
}

/// `slot!(vf.vlan)`
macro_rules! slot {
    ($($path:ident).+) => {
        $crate::claim::value::Slot { get: |config| &config.$($path).+, put: |config| &mut config.$($path).+ }
    };
}
pub(super) use slot;

impl<T: Clone> Slot<T> {
    /// Lays a later config over this one.
    pub fn overlay(&self, config: &mut VfConfig, later: &VfConfig) {
        if let Some(value) = (self.get)(later) {
            *(self.put)(config) = Some(value.clone());
        }
    }
}

/// One kind of value.
pub(super) trait Value: Sync {
    /// What it looks like.
    fn form(&self) -> Form;

    /// Reads it into the config, or notes what is wrong with it.
    fn read(&self, at: &mut At<'_>, given: &Json, config: &mut VfConfig);

    /// A later config wins, if it says anything.
    fn overlay(&self, config: &mut VfConfig, later: &VfConfig);

    /// What the config says, for sentences and to be compared with grants.
    fn of(&self, config: &VfConfig) -> Option<Datum>;

    /// Reads one entry of a grant's `values`.
    fn granted(&self, at: &mut At<'_>, _given: &Json) -> Option<Span> {
        at.fault("no grant says which values of this field there may be")
    }
}

/// What a value looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Number {
        /// Smallest.
        least: u64,
        /// Largest.
        most: u64,
        /// `bytes`; empty where it only counts.
        unit: &'static str,
        /// `68 to 65535 bytes`
        shown: String,
    },
    /// One of these.
    Word(Vec<&'static str>),
    /// Text.
    Text(TextForm),
    /// Several objects of texts: name, form, and whether it has to be there.
    Objects {
        /// Of each.
        fields: Vec<(&'static str, TextForm, bool)>,
        /// Most of them.
        most: usize,
    },
    /// Several texts, each once.
    List {
        /// Of each.
        of: TextForm,
        /// Most of them.
        most: usize,
    },
}

/// What a text looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextForm {
    /// For sentences: `a MAC address such as "02:00:00:00:00:01"`.
    pub what: &'static str,
    /// Regular expression (RE2) that every good text matches as a whole. Some that match are refused all the same: what no
    /// expression can say, the reader does.
    pub pattern: String,
    /// Texts that match and are refused.
    pub except: Vec<&'static str>,
    /// It is an address with its prefix length.
    pub is_cidr: bool,
    /// In a grant, two of them with a hyphen are all in between.
    pub ranges: bool,
}

/// A value that can be compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Datum {
    /// Of a switch.
    Switch(bool),
    /// Of a number.
    Number(u64),
    /// Of an enumeration.
    Word(&'static str),
    /// Of an address.
    Mac(HwAddr),
    /// Of anything else, as it is shown.
    Text(String),
}

impl fmt::Display for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch(on) => write!(f, "{on}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Word(word) => f.write_str(word),
            Self::Mac(mac) => write!(f, "{mac}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Values from one to another, both included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// First.
    pub first: Datum,
    /// Last.
    pub last: Datum,
}

impl Span {
    /// A value alone.
    pub(super) fn one(value: Datum) -> Self {
        Self { first: value.clone(), last: value }
    }

    /// Between its first and its last.
    pub(super) fn contains(&self, value: &Datum) -> bool {
        (&self.first..=&self.last).contains(&value)
    }

    /// From a text `first-last`. Errors: one sentence.
    pub(super) fn between(text: &str, first: Datum, last: Datum) -> Result<Self, String> {
        match first <= last {
            true => Ok(Self { first, last }),
            false => Err(format!("{text:?} is an empty range, write the smaller one first: {last}-{first}")),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// `true` or `false`.
pub(super) struct Switch(pub Slot<bool>);

impl Switch {
    fn parse(at: &mut At<'_>, given: &Json) -> Option<bool> {
        match given.as_bool() {
            Some(on) => Some(on),
            None => at.wrong_type(given, "true or false"),
        }
    }
}

impl Value for Switch {
    fn form(&self) -> Form {
        Form::Switch
    }

    fn read(&self, at: &mut At<'_>, given: &Json, config: &mut VfConfig) {
        *(self.0.put)(config) = Self::parse(at, given);
    }

    fn overlay(&self, config: &mut VfConfig, later: &VfConfig) {
        self.0.overlay(config, later);
    }

    fn of(&self, config: &VfConfig) -> Option<Datum> {
        (self.0.get)(config).map(Datum::Switch)
    }

    fn granted(&self, at: &mut At<'_>, given: &Json) -> Option<Span> {
        Self::parse(at, given).map(|on| Span::one(Datum::Switch(on)))
    }
}

/// A whole number.
pub(super) struct Number<T: 'static> {
    pub slot: Slot<T>,
    /// `MTU`, for "is no possible MTU".
    pub what: &'static str,
    /// `bytes`; empty where it only counts.
    pub unit: &'static str,
    pub range: RangeInclusive<T>,
    /// 0 is `none`, say, rather than an amount.
    pub zero: Option<&'static str>,
    /// A good one.
    pub example: T,
}

impl<T: Copy + Into<u64> + TryFrom<u64>> Number<T> {
    fn bounds(&self) -> RangeInclusive<u64> {
        (*self.range.start()).into()..=(*self.range.end()).into()
    }

    fn shown(&self) -> String {
        let (bounds, space) = (self.bounds(), if self.unit.is_empty() { "" } else { " " });
        let least = if self.zero.is_some() { 1 } else { *bounds.start() };
        let zero = self.zero.map(|meaning| format!(", or 0 for {meaning}")).unwrap_or_default();
        format!("{least} to {}{space}{}{zero}", bounds.end(), self.unit)
    }

    fn check(&self, number: u64) -> Result<T, String> {
        let fits = self.bounds().contains(&number).then(|| T::try_from(number).ok()).flatten();
        fits.ok_or_else(|| format!("{number} is no possible {}, it must be {}", self.what, self.shown()))
    }

    /// One number, or two with a hyphen. Errors: one sentence.
    fn span(&self, text: &str) -> Result<Span, String> {
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let number = digits.then(|| part.parse::<u64>().ok()).flatten().ok_or_else(|| {
                format!(
                    "{text:?} is neither a whole number nor a range such as \"{0}-{0}\"",
                    self.example.into()
                )
            })?;
            self.check(number).map(|number| Datum::Number(number.into()))
        };
        match text.split_once('-') {
            Some((first, last)) => Span::between(text, number(first)?, number(last)?),
            None => number(text).map(Span::one),
        }
    }
}

impl<T: Copy + Into<u64> + TryFrom<u64> + Sync> Value for Number<T> {
    fn form(&self) -> Form {
        let bounds = self.bounds();
        Form::Number { least: *bounds.start(), most: *bounds.end(), unit: self.unit, shown: self.shown() }
    }

    fn read(&self, at: &mut At<'_>, given: &Json, config: &mut VfConfig) {
        let of = if self.unit.is_empty() { String::new() } else { format!(" of {}", self.unit) };
        let expected = format!("a whole number{of} such as {}", self.example.into());
        *(self.slot.put)(config) = match given.as_u64().map(|number| self.check(number)) {
            Some(Ok(number)) => Some(number),
            Some(Err(problem)) => at.fault(problem),
            None => at.wrong_type(given, &expected),
        };
    }

    fn overlay(&self, config: &mut VfConfig, later: &VfConfig) {
        self.slot.overlay(config, later);
    }

    fn of(&self, config: &VfConfig) -> Option<Datum> {
        (self.slot.get)(config).map(|number| Datum::Number(number.into()))
    }

    fn granted(&self, at: &mut At<'_>, given: &Json) -> Option<Span> {
        let span = match (given.as_u64(), given.as_str()) {
            (Some(number), _) => self.check(number).map(|number| Span::one(Datum::Number(number.into()))),
            (None, Some(text)) => self.span(text),
            (None, None) => return at.wrong_type(given, "a whole number, or a range such as \"100-199\""),
        };
        span.map_or_else(|problem| at.fault(problem), Some)
    }
}

/// One of several words.
pub(super) struct Word<T: 'static> {
    pub slot: Slot<T>,
    /// In the order of the docs.
    pub words: &'static [(&'static str, T)],
}

impl<T: Copy + PartialEq> Word<T> {
    fn parse(&self, at: &mut At<'_>, given: &Json) -> Option<(&'static str, T)> {
        let words: Vec<&str> = self.words.iter().map(|(word, _)| *word).collect();
        let text = at.text(given, &one_of(&words))?;
        match self.words.iter().find(|(word, _)| *word == text) {
            Some(found) => Some(*found),
            None => {
                let hint = did_you_mean(text, words.iter().copied());
                at.fault(format!("{text:?} is not possible, it must be {}{hint}", one_of(&words)))
            }
        }
    }
}

impl<T: Copy + PartialEq + Sync> Value for Word<T> {
    fn form(&self) -> Form {
        Form::Word(self.words.iter().map(|(word, _)| *word).collect())
    }

    fn read(&self, at: &mut At<'_>, given: &Json, config: &mut VfConfig) {
        *(self.slot.put)(config) = self.parse(at, given).map(|(_, value)| value);
    }

    fn overlay(&self, config: &mut VfConfig, later: &VfConfig) {
        self.slot.overlay(config, later);
    }

    fn of(&self, config: &VfConfig) -> Option<Datum> {
        let value = (*(self.slot.get)(config))?;
        self.words.iter().find(|(_, known)| *known == value).map(|(word, _)| Datum::Word(word))
    }

    fn granted(&self, at: &mut At<'_>, given: &Json) -> Option<Span> {
        self.parse(at, given).map(|(word, _)| Span::one(Datum::Word(word)))
    }
}

/// `auto, enable or disable`
pub(super) fn one_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}
