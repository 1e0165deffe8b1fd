//! The search against one that leaves nothing out.

use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaimSpec, ResourceSlice};
use serde_json::{Value, json};

use super::constraint::Kind;
use super::judge::Verdict;
use super::problem::Problem;
use super::request::Amount;
use super::search::{Choice, search};
use super::{Cluster, DeviceId, Node, Taken, Wanted};

/// Every combination in the scheduler's order, as the API's documentation defines the constraints.
fn exhaustive(problem: &Problem<'_>, slot: usize, chosen: &mut Vec<Choice>) -> bool {
    let Some(here) = problem.slots.get(slot) else { return true };
    here.alternatives.iter().any(|request| match problem.requests[*request].amount {
        Amount::Exactly(count) => some(problem, slot, *request, count, 0, chosen),
        Amount::All => {
            let before = chosen.len();
            let devices = problem.all_devices(*request);
            let taken = devices.iter().all(|device| take(problem, *request, *device, chosen));
            let done = !devices.is_empty() && taken && exhaustive(problem, slot + 1, chosen);
            if !done {
                chosen.truncate(before);
            }
            done
        }
    })
}

fn some(
    problem: &Problem<'_>,
    slot: usize,
    request: usize,
    missing: usize,
    start: usize,
    chosen: &mut Vec<Choice>,
) -> bool {
    if missing == 0 {
        return exhaustive(problem, slot + 1, chosen);
    }
    (start..problem.candidates.len()).any(|device| {
        if !take(problem, request, device, chosen) {
            return false;
        }
        let done = some(problem, slot, request, missing - 1, device + 1, chosen);
        if !done {
            chosen.pop();
        }
        done
    })
}

fn take(problem: &Problem<'_>, request: usize, device: usize, chosen: &mut Vec<Choice>) -> bool {
    let fits = problem.verdicts[request][device] == Verdict::Fits && problem.holders[device].is_none();
    let used = chosen.iter().any(|choice| choice.device == device);
    let allowed = problem.constraints.iter().filter(|c| c.covers(&problem.requests[request])).all(|c| {
        let mut others = chosen.iter().filter(|choice| c.covers(&problem.requests[choice.request]));
        c.value(device).is_some()
            && others.all(|other| (c.value(other.device) == c.value(device)) == (c.kind == Kind::Match))
    });
    let takes = fits && !used && allowed;
    if takes {
        chosen.push(Choice { request, device });
    }
    takes
}

/// Numbers that are the same on every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn random_slice(numbers: &mut Numbers) -> ResourceSlice {
    let devices: Vec<Value> = (0..3 + numbers.below(6))
        .map(|device| {
            let mut attributes = json!({"d.example/a": {"int": numbers.below(3)}});
            if numbers.below(5) > 0 {
                attributes["d.example/b"] = json!({"int": numbers.below(4)});
            }
            json!({"name": format!("dev-{device}"), "attributes": attributes})
        })
        .collect();
    let pool = json!({"name": "n", "generation": 1, "resourceSliceCount": 1});
    let spec = json!({"driver": "d.example", "nodeName": "n", "pool": pool, "devices": devices});
    serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap()
}

fn random_alternative(numbers: &mut Numbers, name: Option<usize>) -> Value {
    let mut request = json!({"deviceClassName": "any", "count": 1 + numbers.below(3)});
    if numbers.below(3) == 0 {
        let expression = format!("device.attributes['d.example'].a != {}", numbers.below(3));
        request["selectors"] = json!([{"cel": {"expression": expression}}]);
    }
    if let Some(name) = name {
        request["name"] = format!("s{name}").into();
    }
    request
}

fn random_claim(numbers: &mut Numbers) -> ResourceClaimSpec {
    let count = 1 + numbers.below(3);
    let requests: Vec<Value> = (0..count)
        .map(|request| match numbers.below(4) {
            0 => {
                let subs: Vec<Value> = (0..2).map(|sub| random_alternative(numbers, Some(sub))).collect();
                json!({"name": format!("r{request}"), "firstAvailable": subs})
            }
            _ => json!({"name": format!("r{request}"), "exactly": random_alternative(numbers, None)}),
        })
        .collect();
    let constraints: Vec<Value> = (0..numbers.below(3))
        .map(|_| {
            let kind = ["matchAttribute", "distinctAttribute"][usize::try_from(numbers.below(2)).unwrap()];
            let attribute = ["d.example/a", "d.example/b"][usize::try_from(numbers.below(2)).unwrap()];
            let scope: Vec<String> = match numbers.below(3) {
                0 => vec![format!("r{}", numbers.below(count))],
                _ => Vec::new(),
            };
            json!({ (kind): attribute, "requests": scope })
        })
        .collect();
    serde_json::from_value(json!({"devices": {"requests": requests, "constraints": constraints}})).unwrap()
}

#[test]
fn the_search_finds_what_an_exhaustive_one_finds_and_nothing_where_that_finds_nothing() {
    let class: DeviceClass =
        serde_json::from_value(json!({"metadata": {"name": "any"}, "spec": {}})).unwrap();
    let classes = [class];
    let node = Node::named("n");
    let (mut found, mut refused) = (0, 0);
    for seed in 0..3000 {
        let mut numbers = Numbers(seed);
        let slices = [random_slice(&mut numbers)];
        let specs: Vec<ResourceClaimSpec> =
            (0..1 + numbers.below(2)).map(|_| random_claim(&mut numbers)).collect();
        let claims: Vec<Wanted<'_>> = specs.iter().map(|spec| Wanted { name: "c", spec }).collect();
        let held = DeviceId { driver: "d.example".into(), pool: "n".into(), device: "dev-1".into() };
        let taken = match numbers.below(2) {
            0 => Taken::default(),
            _ => Taken([(held, "x".to_owned())].into()),
        };
        let cluster = Cluster { slices: &slices, classes: &classes, taken: &taken };
        let problem = Problem::new(&cluster, &claims, &node).unwrap();
        let mut expected = Vec::new();
        let possible = exhaustive(&problem, 0, &mut expected);
        match search(&problem) {
            Ok(chosen) => {
                assert!(possible, "seed {seed}: {chosen:?} breaks a rule");
                assert_eq!(chosen, expected, "seed {seed}");
                found += 1;
            }
            Err(refusal) => {
                assert!(!possible, "seed {seed}: {refusal}, but {expected:?} would do");
                refused += 1;
            }
        }
    }
    assert!(found > 500 && refused > 500, "one-sided: {found} found, {refused} refused");
}
