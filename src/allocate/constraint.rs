//! `matchAttribute` and `distinctAttribute`.
//!
//! A device without the attribute can't be in the set (resource.k8s.io/v1, `DeviceConstraint`). `distinctAttribute`
//! holds for every pair of devices, whichever requests they are for, as its documentation says.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::DeviceConstraint;

use super::judge;
use super::pools::Candidate;
use super::request::Request;
use super::{Refusal, Wanted};
use crate::policy::AttributeValue;

/// What has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Match,
    Distinct,
}

/// One constraint of one claim.
#[derive(Debug)]
pub(super) struct Constraint<'a> {
    pub claim: usize,
    pub kind: Kind,
    pub attribute: &'a str,
    pub requests: &'a [String],
    /// Every value there is; devices refer to them by index.
    pub values: Vec<AttributeValue>,
    /// By device.
    pub value_of: Vec<Option<u32>>,
}

impl<'a> Constraint<'a> {
    pub fn new(
        claim: usize,
        wanted: &Wanted<'a>,
        constraint: &'a DeviceConstraint,
        candidates: &[Candidate<'_>],
    ) -> Result<Self, Refusal> {
        let (kind, attribute) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(attribute), None) => (Kind::Match, attribute),
            (None, Some(attribute)) => (Kind::Distinct, attribute),
            _ => {
                return Err(Refusal::Faulty {
                    object: format!("claim {}", wanted.name),
                    problem: "a constraint must have one of matchAttribute and distinctAttribute".to_owned(),
                });
            }
        };
        let (domain, name) = attribute.split_once('/').unwrap_or(("", attribute));
        let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
        let mut values = Vec::new();
        let value_of = candidates.iter().map(|candidate| {
            let attribute = judge::attribute(&candidate.id.driver, candidate.device, domain, name)?;
            let value = judge::value(attribute)?;
            // Values of different types are different values.
            let number = *numbers.entry(format!("{value:?}")).or_insert_with(|| {
                values.push(value);
                u32::try_from(values.len() - 1).unwrap_or(u32::MAX)
            });
            Some(number)
        });
        let value_of = value_of.collect();
        let requests = constraint.requests.as_deref().unwrap_or_default();
        Ok(Self { claim, kind, attribute, requests, values, value_of })
    }

    pub fn covers(&self, request: &Request<'_>) -> bool {
        self.claim == request.claim && request.is_among(self.requests)
    }

    pub fn value(&self, device: usize) -> Option<u32> {
        self.value_of.get(device).copied().flatten()
    }
}

/// The values that chosen devices have, one for each device.
#[derive(Debug, Clone, Default)]
pub(super) struct Chosen(Vec<u32>);

impl Chosen {
    /// Whether a device with this value may join.
    pub fn accepts(&self, kind: Kind, value: Option<u32>) -> bool {
        let Some(value) = value else { return false };
        match kind {
            Kind::Match => self.0.first().is_none_or(|first| *first == value),
            Kind::Distinct => !self.0.contains(&value),
        }
    }

    pub fn push(&mut self, value: u32) {
        self.0.push(value);
    }

    pub fn pop(&mut self) {
        self.0.pop();
    }

    /// No device yet: any value is fine.
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }
}
