//! The admission policies of `manifests/`: each expression, run as an API server does, with what it takes and refuses.
//!
//! The stories of `tests/cluster` put the same cases to a real one.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use sriov_dra::claim::{Source, decode_parameters};
use sriov_dra::cli::schema::manifest;

use crate::cases::{By, Case, bad, good, object, resource};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A policy of the manifests, by its name.
fn policy(name: &str) -> Value {
    let texts = ["manifests/admission.yaml", "manifests/parameters.yaml"].map(read);
    let documents = texts.iter().flat_map(|text| serde_saphyr::from_multiple::<Value>(text).unwrap());
    let mut named = documents.filter(|document| document["kind"] == "ValidatingAdmissionPolicy");
    named.find(|document| document["metadata"]["name"] == name).unwrap()
}

/// A policy whose expressions are compiled.
struct Compiled {
    environment: Arc<cel::Env>,
    conditions: Vec<cel::Program>,
    variables: Vec<(String, cel::Program)>,
    /// With the message, or the expression of one.
    validations: Vec<(cel::Program, Result<String, cel::Program>)>,
}

impl Compiled {
    fn new(policy: &Value) -> Self {
        let mut environment = cel::Env::stdlib();
        environment.add_extension(cel::extensions::strings).unwrap();
        let compile = |expression: &Value| {
            let expression = expression.as_str().unwrap().to_owned();
            // The parser takes more stack for each operator of a chain than a test's thread has.
            std::thread::scope(|scope| {
                let parser = std::thread::Builder::new().stack_size(64 << 20);
                let parse =
                    || environment.compile(&expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
                parser.spawn_scoped(scope, parse).unwrap().join().unwrap()
            })
        };
        let spec = &policy["spec"];
        let list = |field: &str| spec[field].as_array().cloned().unwrap_or_default();
        let conditions = list("matchConditions").iter().map(|of| compile(&of["expression"])).collect();
        let variables = list("variables")
            .into_iter()
            .map(|of| (of["name"].as_str().unwrap().to_owned(), compile(&of["expression"])));
        let variables = variables.collect();
        let validations = list("validations").into_iter().map(|of| {
            let message = match of.get("messageExpression") {
                Some(expression) => Err(compile(expression)),
                None => Ok(of["message"].as_str().unwrap().to_owned()),
            };
            (compile(&of["expression"]), message)
        });
        let validations = validations.collect();
        Self { environment: Arc::new(environment), conditions, variables, validations }
    }

    /// The messages for a request; an expression that has no answer ends the test.
    fn refusals(&self, request: &Value) -> Vec<String> {
        let mut context = cel::Context::with_env(Arc::clone(&self.environment));
        // Of the libraries of Kubernetes that the crate has not.
        let is_cidr = |text: Arc<String>| text.parse::<ipnet::IpNet>().is_ok();
        context.add_function("isCIDR", is_cidr).unwrap();
        context.add_variable_from_value("request", cel_value(request));
        context.add_variable_from_value("object", cel_value(&request["object"]));
        context.add_variable_from_value("oldObject", cel_value(&request["oldObject"]));
        let evaluate = |program: &cel::Program, context: &cel::Context<'_, '_>| {
            program
                .execute(context)
                .unwrap_or_else(|e| panic!("{:?} of {request}: {e}", program.expression()))
        };
        if self.conditions.iter().any(|of| evaluate(of, &context) != cel::Value::Bool(true)) {
            return Vec::new();
        }
        let mut variables = HashMap::new();
        for (name, program) in &self.variables {
            let value = evaluate(program, &context);
            variables.insert(name.clone(), value);
            context.add_variable_from_value("variables", variables.clone());
        }
        let mut messages = Vec::new();
        for (program, message) in &self.validations {
            match evaluate(program, &context) {
                cel::Value::Bool(true) => {}
                cel::Value::Bool(false) => messages.push(match message {
                    Ok(message) => message.clone(),
                    Err(program) => match evaluate(program, &context) {
                        cel::Value::String(message) => message.to_string(),
                        other => panic!("{other:?} is no message"),
                    },
                }),
                other => panic!("{other:?} is neither true nor false"),
            }
        }
        messages
    }
}

/// As the API server shows JSON to CEL: whole numbers are ints.
fn cel_value(json: &Value) -> cel::Value {
    match json {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => cel::Value::Int(number),
            None => cel::Value::Float(number.as_f64().unwrap()),
        },
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(list) => cel::Value::List(Arc::new(list.iter().map(cel_value).collect())),
        Value::Object(map) => {
            let map: HashMap<String, cel::Value> =
                map.iter().map(|(key, value)| (key.clone(), cel_value(value))).collect();
            map.into()
        }
    }
}

#[test]
fn the_admission_policy_lets_an_agent_write_slices_of_its_own_node_only() {
    let policy = &Compiled::new(&policy("sriov-dra-slices-of-own-node"));
    let agent = "system:serviceaccount:sriov-dra:sriov-dra";
    let extra = json!({"authentication.kubernetes.io/node-name": ["node-a"]});
    let slice = |node: &str| json!({"spec": {"nodeName": node, "driver": "sriov-dra.io"}});
    let create = |user: &str, extra: &Value, slice: Value| json!({"operation": "CREATE", "userInfo": {"username": user, "extra": extra}, "object": slice, "oldObject": null});

    let other_node = ["the agent of node node-a may not write a slice of node node-b"];
    assert_eq!(policy.refusals(&create(agent, &extra, slice("node-a"))), [""; 0]);
    assert_eq!(policy.refusals(&create(agent, &extra, slice("node-b"))), other_node);
    assert_eq!(policy.refusals(&create("system:node:node-b", &json!({}), slice("node-b"))), [""; 0]);

    let everywhere = json!({"spec": {"allNodes": true, "driver": "sriov-dra.io"}});
    assert_eq!(policy.refusals(&create(agent, &extra, everywhere)).len(), 1);
    let unbound = policy.refusals(&create(agent, &json!({}), slice("node-a")));
    assert!(unbound[0].contains("names no node"), "{unbound:?}");
    let mut no_extra = create(agent, &extra, slice("node-a"));
    no_extra["userInfo"].as_object_mut().unwrap().remove("extra");
    assert_eq!(policy.refusals(&no_extra).len(), 1);

    for (node, expected) in [("node-a", &[][..]), ("node-b", &other_node[..])] {
        let mut delete = create(agent, &extra, Value::Null);
        delete["operation"] = json!("DELETE");
        delete["oldObject"] = slice(node);
        assert_eq!(policy.refusals(&delete), expected);
    }
}

#[test]
fn the_admission_policy_lets_an_agent_claim_blocks_for_its_own_node_and_delete_its_own_and_lost_ones() {
    let policy = &Compiled::new(&policy("sriov-dra-blocks-of-own-node"));
    let request = |operation: &str, node: &str, status: Value| {
        let block = json!({"spec": {"nodeName": node}, "status": status});
        let user = json!({
            "username": "system:serviceaccount:sriov-dra:sriov-dra",
            "extra": {"authentication.kubernetes.io/node-name": ["node-a"]},
        });
        let (object, old) = if operation == "DELETE" { (Value::Null, block) } else { (block, Value::Null) };
        json!({"operation": operation, "userInfo": user, "object": object, "oldObject": old})
    };
    let other_node = ["the agent of node node-a may not write a block of addresses of node node-b"];
    let lost = json!({"nodeGoneSince": "2026-01-01T00:00:00Z"});
    for (operation, node, status, expected) in [
        ("CREATE", "node-a", json!({}), &[][..]),
        ("CREATE", "node-b", json!({}), &other_node),
        ("CREATE", "node-b", lost.clone(), &other_node),
        ("UPDATE", "node-b", json!({}), &other_node),
        ("DELETE", "node-a", json!({}), &[]),
        ("DELETE", "node-b", json!({}), &other_node),
        ("DELETE", "node-b", lost, &[]),
    ] {
        assert_eq!(policy.refusals(&request(operation, node, status)), expected, "{operation} {node}");
    }
}

fn parameters_policy() -> Compiled {
    Compiled::new(&policy("sriov-dra-parameters"))
}

fn create(case: &Case) -> Value {
    json!({
        "operation": "CREATE", "resource": {"resource": resource(case.by)}, "object": object(case, "x"), "oldObject": null,
    })
}

fn decoded(case: &Case) -> Result<(), String> {
    let source = if case.by == By::Class { Source::Class } else { Source::Claim };
    decode_parameters(&case.parameters, source).map(drop).map_err(|faults| faults.to_string())
}

#[test]
fn the_policy_of_parameters_is_the_one_that_the_table_of_fields_makes() {
    let made = manifest(sriov_dra::DEFAULT_DRIVER_NAME).unwrap();
    let kept = read("manifests/parameters.yaml");
    assert!(made == kept, "make it anew: cargo run -- schema --admission > manifests/parameters.yaml");
    // Folding them into lines has left the expressions as they are.
    let of_table = sriov_dra::claim::policy(sriov_dra::DEFAULT_DRIVER_NAME);
    let expressions = |field: &str, key: &str| -> Vec<String> {
        let list = policy("sriov-dra-parameters")["spec"][field].as_array().unwrap().clone();
        list.iter().map(|of| of[key].as_str().unwrap().to_owned()).collect()
    };
    let variables: Vec<String> = of_table.variables.into_iter().map(|(_, expression)| expression).collect();
    assert_eq!(expressions("variables", "expression"), variables);
    let (tests, messages): (Vec<String>, Vec<String>) = of_table.validations.into_iter().unzip();
    assert_eq!(expressions("validations", "expression"), tests);
    assert_eq!(expressions("validations", "message"), messages);
    let other = manifest("vf.example.org").unwrap();
    assert!(
        other.contains("c.opaque.driver == \"vf.example.org\"")
            && other.contains("\"sriov-dra.io/v1alpha1\"")
    );
}

#[test]
fn good_parameters_are_admitted_and_bad_ones_refused_with_their_sentence_as_the_driver_does() {
    let policy = parameters_policy();
    for case in good() {
        assert_eq!(policy.refusals(&create(&case)), [""; 0], "{case:?}");
        assert_eq!(decoded(&case), Ok(()), "{case:?}");
    }
    let mut said = BTreeSet::new();
    for case in bad() {
        let says = case.says.unwrap();
        let refusals = policy.refusals(&create(&case));
        assert!(refusals.iter().any(|refusal| refusal.starts_with(says)), "{case:?}: {refusals:?}");
        assert!(decoded(&case).is_err(), "the driver takes {case:?}");
        said.extend(refusals);
    }
    let silent: Vec<_> = policy
        .validations
        .iter()
        .filter_map(|(_, message)| message.as_ref().ok().cloned())
        .filter(|m| !said.contains(m))
        .collect();
    assert_eq!(silent, [""; 0], "these refused nothing");
}

/// Values of every type, in every place: none may leave an expression without an answer, and none that the driver takes
/// may be refused.
#[test]
fn no_value_anywhere_leaves_the_policy_without_an_answer_or_is_refused_though_the_driver_takes_it() {
    let policy = parameters_policy();
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(-1),
        json!(7),
        json!(100),
        json!(1e3),
        json!(1.5),
        json!(18_446_744_073_709_551_615_u64),
        json!(""),
        json!("auto"),
        json!("1-9"),
        json!("vf.vlan"),
        json!("802.1Q"),
        json!("net{n}"),
        json!("02:00:00:00:00:01"),
        json!([]),
        json!([1]),
        json!(["a"]),
        json!([null]),
        json!([[]]),
        json!([{}]),
        json!(["10.0.0.1/24"]),
        json!({}),
        json!({"a": 1}),
        json!({"field": "vf.vlan"}),
        json!([{"field": "vf.vlan"}]),
        json!([{"field": "vf.mac", "values": [1]}]),
        json!([{"field": "vf.vlan", "values": ["5", "7-9"]}]),
    ];
    let facts = sriov_dra::claim::field_facts();
    let mut of_config: Vec<String> = facts.into_iter().map(|facts| facts.path).collect();
    of_config.extend(["apiVersion", "kind", "interface", "vf", "bind", "rdma", "x"].map(str::to_owned));
    of_config
        .extend(["vf.x", "interface.sysctls", "interface.probe", "interface.sysctls.x"].map(str::to_owned));
    let of_grant = ["apiVersion", "kind", "allow", "namespaces", "x"].map(str::to_owned).to_vec();
    let mut judged = 0;
    for (kind, paths) in [("VfConfig", of_config), ("VfGrant", of_grant)] {
        for path in &paths {
            for value in &values {
                let mut parameters = json!({"apiVersion": "sriov-dra.io/v1alpha1", "kind": kind});
                if kind == "VfGrant" {
                    parameters["allow"] = json!([{"field": "vf.trust"}]);
                }
                let below = |inner: Value, name: &str| json!({name: inner});
                let (top, rest) =
                    path.split_once('.').map_or((path.as_str(), None), |(top, rest)| (top, Some(rest)));
                parameters[top] = match rest {
                    Some(rest) => rest.rsplit('.').fold(value.clone(), below),
                    None => value.clone(),
                };
                for by in [By::Class, By::Claim] {
                    let case = Case { by, parameters: parameters.clone(), says: None };
                    let refusals = policy.refusals(&create(&case));
                    assert!(refusals.is_empty() || decoded(&case).is_err(), "{case:?}: {refusals:?}");
                    judged += 1;
                }
            }
        }
    }
    assert!(judged > 1500, "{judged}");
}

#[test]
fn what_was_stored_before_the_policy_can_still_be_relabelled_and_released() {
    let policy = parameters_policy();
    let case = bad().into_iter().find(|case| case.by == By::Claim).unwrap();
    let mut update = create(&case);
    update["operation"] = json!("UPDATE");
    update["oldObject"] = update["object"].clone();
    update["object"]["metadata"]["finalizers"] = json!([]);
    assert_eq!(policy.refusals(&update), [""; 0]);
    update["oldObject"]["spec"]["devices"]["config"] = json!([]);
    assert!(!policy.refusals(&update).is_empty(), "a new spec is judged");
}

#[test]
fn objects_without_any_config_are_admitted() {
    let policy = parameters_policy();
    for (by, spec) in [
        (By::Class, json!({})),
        (By::Claim, json!({})),
        (By::Claim, json!({"devices": {"requests": []}})),
        (By::Template, json!({"spec": {}})),
        (By::Template, json!({"spec": {"devices": {}}})),
    ] {
        let request = json!({
            "operation": "CREATE", "resource": {"resource": resource(by)}, "object": {"spec": spec}, "oldObject": null,
        });
        assert_eq!(policy.refusals(&request), [""; 0]);
    }
}
