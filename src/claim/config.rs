//! Which config entries count for which result, and what they add up to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::resource::v1::{DeviceAllocationConfiguration, ResourceClaimSpec};

use super::decode::decode_parameters;
use super::error::Faults;
use super::fields::{IPV6_MIN_MTU, VfConfig};
use super::{DEFAULT_NAME_TEMPLATE, NameSpec, ResultSpec};

/// One config entry for this driver, decoded.
struct Entry<'a> {
    /// `config[2] (from claim)`: the index in `status.allocation.devices.config`.
    place: String,
    requests: &'a [String],
    config: VfConfig,
}

/// The config entries of an allocation that are for this driver, in order of precedence: those of classes before
/// those of the claim, whatever their order in the list, so that the claim's word is the last.
pub(super) struct Entries<'a>(Vec<Entry<'a>>);

impl<'a> Entries<'a> {
    /// Decodes every entry, also those that match no result: a fault that shows only on the day when the scheduler
    /// picks another subrequest would be worse than one that always shows.
    pub(super) fn decode(
        list: &'a [DeviceAllocationConfiguration],
        spec: Option<&ResourceClaimSpec>,
        driver: &str,
        faults: &mut Faults,
    ) -> Self {
        let mut classes = Vec::new();
        let mut claims = Vec::new();
        for (index, entry) in list.iter().enumerate() {
            let Some(opaque) = entry.opaque.as_ref().filter(|opaque| opaque.driver == driver) else {
                continue;
            };
            let requests = entry.requests.as_deref().unwrap_or_default();
            let from_class = entry.source == "FromClass";
            let source = match class_name(spec, requests) {
                Some(class) if from_class => format!("class {class}"),
                _ if from_class => "class".to_owned(),
                _ => "claim".to_owned(),
            };
            let place = format!("config[{index}] (from {source})");
            match decode_parameters(&opaque.parameters.0) {
                Ok(config) => {
                    let group = if from_class { &mut classes } else { &mut claims };
                    group.push(Entry { place, requests, config });
                }
                Err(found) => faults.0.extend(found.within(&place)),
            }
        }
        classes.append(&mut claims);
        Self(classes)
    }

    /// What the entries add up to for each result, and what can't hold for the results together.
    pub(super) fn apply(&self, results: &mut [ResultSpec], faults: &mut Faults) {
        let mut names = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for result in results.iter_mut().filter(|result| !result.admin_access) {
            let wanted = self.of(&result.request);
            let interface = &wanted.config.interface;
            result.interface_asked = *interface != Default::default();
            result.mtu = interface.mtu;
            result.addresses = interface.addresses.clone().unwrap_or_default();
            let default = NameSpec::Template(DEFAULT_NAME_TEMPLATE.to_owned());
            match interface.name.as_ref().unwrap_or(&default).for_request(result.top_level_request()) {
                Ok(name) => result.name = name,
                Err(problem) => {
                    faults.add(wanted.place(|i| i.interface.name.is_some(), "interface.name"), problem)
                }
            }
            let place = wanted.place(|c| c.interface.mtu.is_some(), "interface.mtu");
            let ipv6 = result.addresses.iter().find(|address| address.addr().is_ipv6());
            if let (Some(mtu @ 0..IPV6_MIN_MTU), Some(address)) = (result.mtu, ipv6) {
                faults.add(
                    place,
                    format!("{mtu} is too small for {address}: IPv6 needs at least {IPV6_MIN_MTU} bytes"),
                );
            }
            if let NameSpec::Explicit(name) = &result.name {
                let place = wanted.place(|c| c.interface.name.is_some(), "interface.name");
                names.entry(name.to_string()).or_insert_with(Vec::new).push((place, describe(result)));
            }
            let place = wanted.place(|c| c.interface.addresses.is_some(), "interface.addresses");
            for address in &result.addresses {
                let users: &mut Vec<_> = addresses.entry(address.addr()).or_default();
                users.push((place.clone(), describe(result)));
            }
        }
        report_shared_names(names, faults);
        report_shared_addresses(addresses, faults);
    }

    fn of(&self, request: &str) -> Wanted<'_> {
        let entries: Vec<&Entry<'_>> =
            self.0.iter().filter(|entry| matches(entry.requests, request)).collect();
        let mut config = VfConfig::default();
        for entry in &entries {
            config.overlay(&entry.config);
        }
        Wanted { config, entries }
    }
}

/// What the entries add up to for one result, and which they were.
struct Wanted<'a> {
    config: VfConfig,
    entries: Vec<&'a Entry<'a>>,
}

impl Wanted<'_> {
    /// `config[2] (from claim): interface.mtu`: the entry that had the last word on a field.
    fn place(&self, sets: impl Fn(&VfConfig) -> bool, field: &str) -> String {
        match self.entries.iter().rev().find(|entry| sets(&entry.config)) {
            Some(entry) => format!("{}: {field}", entry.place),
            None => field.to_owned(),
        }
    }
}

/// Scope of an entry: none named is all; `main` is `main` and every `main/sub`; `main/sub` is only that
/// (KEP-4816, `DeviceAllocationConfiguration.requests`).
fn matches(requests: &[String], request: &str) -> bool {
    let top_level = request.split('/').next().unwrap_or(request);
    requests.is_empty() || requests.iter().any(|wanted| wanted == request || wanted == top_level)
}

/// The class an entry came from: the allocation doesn't say, but its requests name their class.
fn class_name<'s>(spec: Option<&'s ResourceClaimSpec>, requests: &[String]) -> Option<&'s str> {
    let (name, sub) = match requests.first()?.split_once('/') {
        Some((name, sub)) => (name, Some(sub)),
        None => (requests.first()?.as_str(), None),
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

fn describe(result: &ResultSpec) -> String {
    format!("{} of request {}", result.device, result.request)
}

/// Uses of one value: the place that asked for it and the VF it is for.
type Uses = Vec<(String, String)>;

fn report_shared_names(names: BTreeMap<String, Uses>, faults: &mut Faults) {
    for (name, uses) in names {
        if let [(place, _), _, ..] = &uses[..] {
            let (count, vfs) = (uses.len(), join(&uses));
            faults.add(place, format!("one name {name:?} for {count} VFs ({vfs}); write it with {{n}}, or set it for one request only"));
        }
    }
}

fn report_shared_addresses(addresses: BTreeMap<IpAddr, Uses>, faults: &mut Faults) {
    // A list that reaches two VFs repeats every address of it; one sentence is enough.
    let mut reported = Vec::new();
    for (address, uses) in addresses {
        if let [(place, _), _, ..] = &uses[..]
            && !reported.contains(&uses)
        {
            let (count, vfs) = (uses.len(), join(&uses));
            faults.add(place, format!("address {address} for {count} VFs ({vfs}); an address is for one VF, set it for one request only"));
            reported.push(uses);
        }
    }
}

fn join(uses: &Uses) -> String {
    uses.iter().map(|(_, vf)| vf.as_str()).collect::<Vec<_>>().join(", ")
}
