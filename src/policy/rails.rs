//! Which rail a PF is on: the number of its port in every node, by which fabrics are wired and pools are made.

use crate::device::Pf;

/// `--rails`: rules of which the first that fits a PF counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rails(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    /// Interface name or PCI address.
    Named(String, u32),
    /// What stands before and behind the number in interface names.
    Numbered(String, String),
}

/// Text that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no rule for rails; write eno3np{{n}}, where {{n}} is the rail in the PF's interface name, or ens1f0=1"
)]
pub struct RailsError(String);

impl Rails {
    /// Reads rules with commas between them.
    ///
    /// # Errors
    /// Names the first that is none.
    pub fn parse(text: &str) -> Result<Self, RailsError> {
        let rules = text.split(',').map(str::trim).filter(|rule| !rule.is_empty()).map(|text| {
            let refused = || RailsError(text.to_owned());
            if let Some((head, tail)) = text.split_once("{n}") {
                let whole = !tail.contains("{n}") && !text.contains('=');
                return whole.then(|| Rule::Numbered(head.to_owned(), tail.to_owned())).ok_or_else(refused);
            }
            let (name, rail) = text.split_once('=').ok_or_else(refused)?;
            let rail = rail.parse().map_err(|_| refused())?;
            (!name.is_empty()).then(|| Rule::Named(name.to_owned(), rail)).ok_or_else(refused)
        });
        rules.collect::<Result<_, _>>().map(Self)
    }

    /// The rail of a PF; none where no rule fits.
    pub fn of(&self, pf: &Pf) -> Option<u32> {
        let name = pf.netdev.as_ref().map(|netdev| netdev.name.as_str());
        self.0.iter().find_map(|rule| match rule {
            Rule::Named(named, rail) => {
                (name == Some(named) || pf.pci.to_string() == *named).then_some(*rail)
            }
            Rule::Numbered(head, tail) => {
                name?.strip_prefix(head.as_str())?.strip_suffix(tail.as_str())?.parse().ok()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_rule_is_refused_by_name() {
        for text in ["eno", "=1", "eno=x", "eno{n}np{n}", "eno{n}=1"] {
            assert_eq!(Rails::parse(&format!("ens1f0=1,{text}")), Err(RailsError(text.to_owned())));
        }
        assert_eq!(Rails::parse(""), Ok(Rails::default()));
    }
}
