//! Semantic versions 2.0.0, as version attributes hold them (semver.org, sections 2, 9 to 11).

use std::any::Any;
use std::cmp::Ordering;
use std::str::FromStr;

use ::cel::common::types::Type;
use ::cel::common::value::{StaticVal, Val};

/// A version. Build metadata counts neither for order nor for equality.
#[derive(Debug, Clone)]
pub struct Semver {
    /// Major, minor, patch.
    pub numbers: [u64; 3],
    /// Identifiers after `-`.
    pre_release: Vec<Identifier>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Text(String),
}

/// The CEL type.
pub(super) static SEMVER: Type = Type::new_unspecified_type("kubernetes.Semver");

impl FromStr for Semver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no semantic version such as 1.2.3");
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
        let numbers: Vec<u64> = core.split('.').map(number).collect::<Option<_>>().ok_or_else(bad)?;
        let numbers = <[u64; 3]>::try_from(numbers).map_err(|_| bad())?;
        let mut pre_release = Vec::new();
        for part in pre.into_iter().flat_map(|pre| pre.split('.')) {
            pre_release.push(match part.bytes().all(|b| b.is_ascii_digit()) {
                true => Identifier::Number(number(part).ok_or_else(bad)?),
                false if is_identifier(part) => Identifier::Text(part.to_owned()),
                false => return Err(bad()),
            });
        }
        match build.into_iter().flat_map(|build| build.split('.')).all(is_identifier) {
            true => Ok(Self { numbers, pre_release }),
            false => Err(bad()),
        }
    }
}

fn number(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    text.parse().ok().filter(|_| canonical && text.bytes().all(|b| b.is_ascii_digit()))
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

impl Ord for Semver {
    fn cmp(&self, other: &Self) -> Ordering {
        let released = |version: &Self| version.pre_release.is_empty();
        self.numbers
            .cmp(&other.numbers)
            // A pre-release comes before its release.
            .then_with(|| released(self).cmp(&released(other)))
            .then_with(|| self.pre_release.cmp(&other.pre_release))
    }
}

impl PartialOrd for Semver {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Semver {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Semver {}

impl Val for Semver {
    fn get_type(&self) -> &Type {
        &SEMVER
    }

    fn cel_type() -> &'static Type {
        &SEMVER
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<Self>().is_some_and(|other| self == other)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Semver {}

#[cfg(test)]
mod tests {
    use super::Semver;

    #[test]
    fn versions_are_in_the_order_of_the_specification() {
        let ordered = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.10.0",
            "2.0.0",
        ];
        let versions: Vec<Semver> = ordered.iter().map(|text| text.parse().unwrap()).collect();
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        assert_eq!("1.0.0+a".parse::<Semver>(), "1.0.0+b".parse());
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in
            ["", "1", "1.2", "v1.2.3", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "1.2.3.4", "1.2.3-a_b"]
        {
            assert!(text.parse::<Semver>().unwrap_err().contains("no semantic version"), "{text}");
        }
    }
}
