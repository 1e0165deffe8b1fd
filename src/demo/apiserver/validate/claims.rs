//! ResourceClaims.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::Value;

use super::devices::{opaque, raw, selectors};
use super::items;
use super::names::{self, is_label};
use crate::demo::apiserver::object::str_at;
use crate::demo::apiserver::status::FieldError;

const MAX_REQUESTS: usize = 32;
const MAX_RESULTS: usize = 32;
const MAX_CONFIG: usize = 64;
const MAX_RESERVED: usize = 256;
const MAX_CONDITIONS: usize = 8;
const MAX_IPS: usize = 16;
const MAX_INTERFACE_NAME: usize = 256;
const MAX_HARDWARE_ADDRESS: usize = 128;

/// `spec` of a claim, which stands at `at`.
pub fn spec(at: &str, spec: &Value, errors: &mut Vec<FieldError>) {
    let requests = items(&spec["devices"], "requests");
    if requests.len() > MAX_REQUESTS {
        errors.push(FieldError::too_many(format!("{at}.devices.requests"), requests.len(), MAX_REQUESTS));
    }
    unique(
        &format!("{at}.devices.requests"),
        requests,
        |request| str_at(request, "/name").to_owned(),
        errors,
    );
    for (index, request) in requests.iter().enumerate() {
        let path = format!("{at}.devices.requests[{index}]");
        count(&format!("{path}.exactly.count"), &request["exactly"], errors);
        selectors(&format!("{path}.exactly"), &request["exactly"], errors);
        for (index, alternative) in items(request, "firstAvailable").iter().enumerate() {
            selectors(&format!("{path}.firstAvailable[{index}]"), alternative, errors);
        }
        if !is_label(str_at(request, "/name")) {
            errors.push(FieldError::invalid(format!("{path}.name"), &request["name"], names::LABEL));
        }
        if request["exactly"].is_null() == items(request, "firstAvailable").is_empty() {
            errors
                .push(FieldError::required(path, "exactly one of `exactly` or `firstAvailable` is required"));
        } else if !request["exactly"].is_null() && str_at(request, "/exactly/deviceClassName").is_empty() {
            errors.push(FieldError::required(format!("{path}.exactly.deviceClassName"), ""));
        }
    }
    for (index, config) in items(&spec["devices"], "config").iter().enumerate() {
        let path = format!("{at}.devices.config[{index}]");
        opaque(&format!("{path}.opaque"), &config["opaque"], errors);
        for (index, name) in items(config, "requests").iter().enumerate() {
            named(&format!("{path}.requests[{index}]"), name, requests, errors);
        }
    }
    for (index, constraint) in items(&spec["devices"], "constraints").iter().enumerate() {
        let path = format!("{at}.devices.constraints[{index}]");
        if constraint["matchAttribute"].is_null() == constraint["distinctAttribute"].is_null() {
            let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errors.push(FieldError::required(&path, detail));
        }
        for (index, name) in items(constraint, "requests").iter().enumerate() {
            named(&format!("{path}.requests[{index}]"), name, requests, errors);
        }
    }
}

fn count(path: &str, exactly: &Value, errors: &mut Vec<FieldError>) {
    let count = exactly["count"].as_i64().unwrap_or_default();
    if exactly["allocationMode"] == "All" && count != 0 {
        let detail = "must not be specified when allocationMode is 'All'";
        errors.push(FieldError::invalid(path, &exactly["count"], detail));
    } else if exactly["allocationMode"] == "ExactCount" && count <= 0 {
        errors.push(FieldError::invalid(path, &exactly["count"], "must be greater than zero"));
    }
}

/// That a text names a request, or an alternative of one.
fn named(path: &str, name: &Value, requests: &[Value], errors: &mut Vec<FieldError>) {
    let text = name.as_str().unwrap_or_default();
    let (request, alternative) = text.split_once('/').map_or((text, None), |(r, a)| (r, Some(a)));
    let found = requests.iter().find(|known| known["name"] == request);
    let there = found.is_some_and(|found| {
        alternative.is_none_or(|name| items(found, "firstAvailable").iter().any(|a| a["name"] == name))
    });
    if !there {
        let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

/// `status` of a claim, against what it was.
pub fn status(before: &Value, after: &Value, errors: &mut Vec<FieldError>) {
    let (was, status) = (&before["status"], &after["status"]);
    let allocation = &status["allocation"];
    if !was["allocation"].is_null() && !allocation.is_null() && was["allocation"] != *allocation {
        errors.push(FieldError::invalid("status.allocation", &"object".into(), "field is immutable"));
    }
    let results = items(&allocation["devices"], "results");
    if results.len() > MAX_RESULTS {
        errors.push(FieldError::too_many("status.allocation.devices.results", results.len(), MAX_RESULTS));
    }
    let requests = items(&after["spec"]["devices"], "requests");
    for (index, result) in results.iter().enumerate() {
        let path = format!("status.allocation.devices.results[{index}].request");
        named(&path, &result["request"], requests, errors);
    }
    let config = items(&allocation["devices"], "config");
    if config.len() > MAX_CONFIG {
        errors.push(FieldError::too_many("status.allocation.devices.config", config.len(), MAX_CONFIG));
    }
    let reserved = items(status, "reservedFor");
    if reserved.len() > MAX_RESERVED {
        errors.push(FieldError::too_many("status.reservedFor", reserved.len(), MAX_RESERVED));
    }
    if !reserved.is_empty() && allocation.is_null() {
        let message = "may not be specified when `allocated` is not set";
        errors.push(FieldError::forbidden("status.reservedFor", message));
    }
    unique("status.reservedFor", reserved, |item| item["uid"].to_string(), errors);

    let devices = items(status, "devices");
    let key = |item: &Value| {
        ["driver", "pool", "device", "shareID"]
            .map(|member| item[member].as_str().unwrap_or_default().to_owned())
    };
    let allocated: BTreeSet<[String; 4]> = results.iter().map(key).collect();
    unique("status.devices", devices, |item| key(item).join("/"), errors);
    for (index, each) in devices.iter().enumerate() {
        let path = format!("status.devices[{index}]");
        if !allocated.contains(&key(each)) {
            let value = key(each).join("/").trim_end_matches('/').into();
            errors.push(FieldError::invalid(&path, &value, "must be an allocated device in the claim"));
        }
        device(&path, each, errors);
    }
}

fn device(path: &str, device: &Value, errors: &mut Vec<FieldError>) {
    let conditions = items(device, "conditions");
    if conditions.len() > MAX_CONDITIONS {
        errors.push(FieldError::too_many(format!("{path}.conditions"), conditions.len(), MAX_CONDITIONS));
    }
    unique(&format!("{path}.conditions"), conditions, |item| item["type"].to_string(), errors);
    for (index, each) in conditions.iter().enumerate() {
        condition(&format!("{path}.conditions[{index}]"), each, errors);
    }
    if !device["data"].is_null() {
        raw(&format!("{path}.data"), &device["data"], errors);
    }
    network(&format!("{path}.networkData"), &device["networkData"], errors);
}

fn condition(path: &str, condition: &Value, errors: &mut Vec<FieldError>) {
    let text = |member: &str| condition[member].as_str().unwrap_or_default();
    if text("type").is_empty() {
        // Both, as the real server says it.
        for detail in [
            "name part must be non-empty",
            "name part must consist of alphanumeric characters, '-', '_' or '.'",
        ] {
            errors.push(FieldError::invalid(format!("{path}.type"), &condition["type"], detail));
        }
    }
    if !["True", "False", "Unknown"].contains(&text("status")) {
        let supported = ["False", "True", "Unknown"];
        errors.push(FieldError::not_supported(format!("{path}.status"), &condition["status"], &supported));
    }
    if ["", super::NO_TIME].contains(&text("lastTransitionTime")) {
        errors.push(FieldError::required(format!("{path}.lastTransitionTime"), ""));
    }
    match text("reason") {
        "" => errors.push(FieldError::required(format!("{path}.reason"), "")),
        long if long.len() > 1024 => errors.push(FieldError::too_long(format!("{path}.reason"), 1024)),
        reason if !is_reason(reason) => {
            let detail = "a condition reason must start with alphabetic character, optionally followed by a string of \
                          alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
            errors.push(FieldError::invalid(format!("{path}.reason"), &condition["reason"], detail));
        }
        _ => {}
    }
    if text("message").len() > 32 * 1024 {
        errors.push(FieldError::too_long(format!("{path}.message"), 32 * 1024));
    }
}

fn is_reason(reason: &str) -> bool {
    let bytes = reason.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_,:".contains(b))
        && bytes.last().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

fn network(path: &str, network: &Value, errors: &mut Vec<FieldError>) {
    if str_at(network, "/interfaceName").len() > MAX_INTERFACE_NAME {
        errors.push(FieldError::too_long(format!("{path}.interfaceName"), MAX_INTERFACE_NAME));
    }
    if str_at(network, "/hardwareAddress").len() > MAX_HARDWARE_ADDRESS {
        errors.push(FieldError::too_long(format!("{path}.hardwareAddress"), MAX_HARDWARE_ADDRESS));
    }
    let ips = items(network, "ips");
    if ips.len() > MAX_IPS {
        errors.push(FieldError::too_many(format!("{path}.ips"), ips.len(), MAX_IPS));
    }
    unique(&format!("{path}.ips"), ips, |ip| ip.as_str().unwrap_or_default().to_owned(), errors);
    for (index, ip) in ips.iter().enumerate() {
        let path = format!("{path}.ips[{index}]");
        let text = ip.as_str().unwrap_or_default();
        match text.parse::<IpNet>() {
            Err(_) => {
                let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
                errors.push(FieldError::invalid(path, ip, detail));
            }
            // An IPv4 address in IPv6 clothes is not canonical either.
            Ok(IpNet::V6(net)) if net.addr().to_ipv4_mapped().is_some() => {
                errors.push(FieldError::invalid(path, ip, "must be in canonical form"));
            }
            Ok(net) if net.to_string() != text => {
                errors.push(FieldError::invalid(
                    path,
                    ip,
                    &format!("must be in canonical form ({:?})", net.to_string()),
                ));
            }
            Ok(_) => {}
        }
    }
}

fn unique(path: &str, items: &[Value], key: impl Fn(&Value) -> String, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        if !seen.insert(key(item)) {
            errors.push(FieldError::duplicate(format!("{path}[{index}]"), &key(item).into()));
        }
    }
}
