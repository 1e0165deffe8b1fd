//! The embedded API server beside the real one: the same requests, the same answers.
//!
//! Of a success the body is compared, without what no two servers share (UIDs, versions, times) and without who manages
//! which field since when. Of a failure what programs act on: code, reason, and which fields are wrong in which way. The
//! real server's sentences quote its own Go structures; the double's need not. The double answers as one Kubernetes version
//! does: an older server may name other fields for the same fault, and is not asked for what it does not know.

mod claims;
mod pods;
mod slices;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sriov_dra::demo::apiserver::ApiServer;

use crate::api::Api;
use crate::lab::Lab;

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const JSON: &str = "application/json";
const DRIVER: &str = "double.example";

/// The field that these are about is dropped by servers older than the double is: `DRADeviceTaints` and
/// `DRAPartitionableDevices` are off there.
const NEWER_FIELDS: [&str; 3] =
    ["a taint with a bad effect", "devices and counters", "65 devices with a taint"];

/// Older servers name other fields for these faults.
const OTHER_FIELDS: [&str; 8] = [
    "a config of no driver",
    "two requests of one name",
    "a constraint without attribute",
    "no driver",
    "two devices of one name",
    "an attribute without value",
    "an attribute with a bad name",
    "a class with a config of no driver",
];

struct Request {
    what: &'static str,
    method: &'static str,
    path: String,
    media: &'static str,
    body: Value,
}

fn request(
    what: &'static str,
    method: &'static str,
    path: impl Into<String>,
    media: &'static str,
    body: Value,
) -> Request {
    Request { what, method, path: path.into(), media, body }
}

/// What two servers can share of an answer.
fn comparable(code: u16, body: Value) -> (u16, Value) {
    if body["kind"] == "Status" && body["status"] == "Failure" {
        let causes = body["details"]["causes"].as_array().cloned().unwrap_or_default();
        let mut causes: Vec<Value> =
            causes.iter().map(|cause| json!([cause["field"], cause["reason"]])).collect();
        causes.dedup();
        let reason = body["reason"].as_str().unwrap_or_default();
        return (code, json!({ "reason": reason, "causes": causes }));
    }
    // A watch is a line for each event.
    let events = body.as_str().map(|text| {
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Value>()
    });
    let mut body = events.unwrap_or(body);
    if body["kind"] == "Pod" {
        body = pods::comparable(&body);
    }
    shared(&mut body);
    (code, body)
}

fn shared(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for field in ["uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "managedFields"]
            {
                fields.remove(field);
            }
            fields.values_mut().for_each(shared);
            // The real server prints some of what is empty, as its types say; no client can tell the difference.
            fields.retain(|_, value| !(value.is_null() || *value == json!({}) || *value == json!("")));
        }
        Value::Array(list) => list.iter_mut().for_each(shared),
        _ => {}
    }
}

/// Of Kubernetes 1.n.
async fn minor(api: &Api) -> Result<u32> {
    let version = api.get("/version").await?;
    Ok(version["minor"].as_str().context("no version")?.trim_end_matches('+').parse()?)
}

pub async fn the_embedded_api_server_answers_as_this_one_does(lab: &mut Lab) -> Result<()> {
    let server = ApiServer::start("127.0.0.1:0").await?;
    let double = Api::of(&server.kubeconfig()?).await?;
    let mut differences = Vec::new();
    let mut asked = 0;
    let is_older = minor(&lab.api).await? < minor(&double).await?;
    let requests =
        [claims::claims(), claims::status(), slices::slices(), pods::pods(), pods::around(), pods::classes()];
    for Request { what, method, path, media, body } in requests.into_iter().flatten() {
        if is_older && NEWER_FIELDS.contains(&what) {
            println!("    not asked, for it is newer than this server: {what}");
            continue;
        }
        let (code, answer) = lab.api.ask(method, &path, media, &body).await?;
        let mut real = comparable(code, answer);
        let (code, answer) = double.ask(method, &path, media, &body).await?;
        let mut ours = comparable(code, answer);
        asked += 1;
        if is_older && OTHER_FIELDS.contains(&what) {
            [&mut real.1, &mut ours.1].into_iter().filter_map(Value::as_object_mut).for_each(|answer| {
                answer.remove("causes");
            });
        }
        if real != ours {
            differences.push(format!(
                "{what}:\n      real:   {} {}\n      double: {} {}",
                real.0, real.1, ours.0, ours.1
            ));
        }
    }
    ensure!(
        differences.is_empty(),
        "{} of {asked} answers differ\n    {}",
        differences.len(),
        differences.join("\n    ")
    );
    Ok(())
}
