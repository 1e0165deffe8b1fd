//! Which config entries count for which VF, and what they add up to.

use k8s_openapi::api::resource::v1::{DeviceAllocationConfiguration, ResourceClaimSpec};

use super::decode::{Parameters, Source, read_parameters};
use super::error::{EntryPlace, Faults};
use super::fields::{VfConfig, fields};
use super::grant::VfGrant;

/// One config entry for this driver, decoded.
struct Entry<'a, T> {
    place: EntryPlace,
    requests: &'a [String],
    says: T,
}

/// The config entries of an allocation that are for this driver.
pub(super) struct Entries<'a> {
    spec: Option<&'a ResourceClaimSpec>,
    classes: Vec<Entry<'a, VfConfig>>,
    grants: Vec<Entry<'a, VfGrant>>,
    claim: Vec<Entry<'a, VfConfig>>,
    /// Those that could not be read, or in part only.
    faulty: Vec<Entry<'a, Source>>,
}

impl<'a> Entries<'a> {
    /// Decodes every entry, also those that match no result: a fault that shows only on the day when the scheduler
    /// picks another subrequest would be worse than one that always shows.
    pub fn decode(
        list: &'a [DeviceAllocationConfiguration],
        spec: Option<&'a ResourceClaimSpec>,
        driver: &str,
        faults: &mut Faults,
    ) -> Self {
        let (classes, grants, claim, faulty) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut entries = Self { spec, classes, grants, claim, faulty };
        for (index, entry) in list.iter().enumerate() {
            let Some(opaque) = entry.opaque.as_ref().filter(|opaque| opaque.driver == driver) else {
                continue;
            };
            let requests = entry.requests.as_deref().unwrap_or_default();
            // Whatever is no class's has no more rights than a claim.
            let source = if entry.source == FROM_CLASS { Source::Class } else { Source::Claim };
            let shown = match (source, requests.first().and_then(|request| class_of(spec, request))) {
                (Source::Class, Some(class)) => format!("class {class}"),
                (Source::Class, None) => "class".to_owned(),
                (Source::Claim, _) => "claim".to_owned(),
            };
            let place = EntryPlace { index, source: shown };
            let (says, found) = read_parameters(&opaque.parameters.0, source);
            if !found.is_empty() {
                entries.faulty.push(Entry { place: place.clone(), requests, says: source });
                faults.add_within(&place, found);
            }
            match says {
                Some(Parameters::Config(says)) => match source {
                    Source::Class => entries.classes.push(Entry { place, requests, says: *says }),
                    Source::Claim => entries.claim.push(Entry { place, requests, says: *says }),
                },
                Some(Parameters::Grant(says)) => entries.grants.push(Entry { place, requests, says }),
                None => {}
            }
        }
        entries
    }

    /// What counts for one VF, in order of precedence: classes before the claim, whatever their order in the list, so
    /// that the claim's word is the last.
    pub fn of(&self, request: &str) -> Wanted<'_> {
        fn matching<'e, T>(entries: &'e [Entry<'_, T>], request: &str) -> Vec<(&'e EntryPlace, &'e T)> {
            let matching = entries.iter().filter(|entry| matches(entry.requests, request));
            matching.map(|entry| (&entry.place, &entry.says)).collect()
        }
        let classes = matching(&self.classes, request);
        let claim = matching(&self.claim, request);
        let mut by_class = VfConfig::default();
        classes.iter().for_each(|(_, says)| by_class.overlay(says));
        let mut config = by_class.clone();
        claim.iter().for_each(|(_, says)| config.overlay(says));
        Wanted {
            config,
            by_class,
            grants: matching(&self.grants, request).into_iter().map(|(_, says)| says).collect(),
            class: class_of(self.spec, request)
                .map_or_else(|| "its class".to_owned(), |class| format!("class {class}")),
            faulty: matching(&self.faulty, request).into_iter().map(|(_, source)| *source).collect(),
            classes,
            claim,
        }
    }
}

/// `source` of an entry that the scheduler copied from a class.
pub const FROM_CLASS: &str = "FromClass";

/// What the entries add up to for one VF, and which they were.
pub(super) struct Wanted<'e> {
    /// Class and claim.
    pub config: VfConfig,
    /// The class alone.
    pub by_class: VfConfig,
    /// What the class lets claims set.
    pub grants: Vec<&'e VfGrant>,
    /// `class sriov-vf`
    pub class: String,
    /// Whose entries have faults: what is missing in them may have been meant.
    pub faulty: Vec<Source>,
    classes: Vec<(&'e EntryPlace, &'e VfConfig)>,
    /// The claim's own.
    pub claim: Vec<(&'e EntryPlace, &'e VfConfig)>,
}

impl Wanted<'_> {
    /// The entry that had the last word on a field.
    pub fn last(&self, path: &str) -> Option<&EntryPlace> {
        let field = fields().into_iter().find(|field| field.path == path)?;
        let mut entries = self.claim.iter().rev().chain(self.classes.iter().rev());
        entries.find(|(_, config)| field.leaf.value.of(config).is_some()).map(|(place, _)| *place)
    }
}

/// Scope of an entry: none named is all; `main` is `main` and every `main/sub`; `main/sub` is only that
/// (KEP-4816, `DeviceAllocationConfiguration.requests`).
fn matches(requests: &[String], request: &str) -> bool {
    requests.is_empty() || requests.iter().any(|wanted| wanted == request || wanted == top_level(request))
}

/// `req` of `req/sub`.
pub(super) fn top_level(request: &str) -> &str {
    request.split('/').next().unwrap_or(request)
}

/// The class of a request: an allocation doesn't say it, but the claim does.
pub(super) fn class_of<'s>(spec: Option<&'s ResourceClaimSpec>, request: &str) -> Option<&'s str> {
    let (name, sub) = match request.split_once('/') {
        Some((name, sub)) => (name, Some(sub)),
        None => (request, None),
    };
    let request = spec?.devices.as_ref()?.requests.as_ref()?.iter().find(|request| request.name == name)?;
    match sub {
        None => Some(&request.exactly.as_ref()?.device_class_name),
        Some(sub) => {
            let subrequest = request.first_available.as_ref()?.iter().find(|request| request.name == sub)?;
            Some(&subrequest.device_class_name)
        }
    }
}
