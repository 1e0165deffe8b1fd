//! The JSON Schema of parameters: a schema, and one that tells good parameters from bad ones.

use std::path::Path;
use std::process::Command;

use jsonschema::Validator;
use serde_json::{Value, json};
use sriov_dra::claim::{Source, decode_parameters};

use crate::cases::{bad, good};

/// What the command prints, compiled.
fn schema() -> (Value, Validator) {
    let output = Command::new(env!("CARGO_BIN_EXE_sriov-dra")).arg("schema").output().unwrap();
    assert!(output.status.success());
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    (schema, validator)
}

#[test]
fn it_is_a_schema_of_draft_2020_12_that_describes_every_field() {
    let (schema, _) = schema();
    assert!(jsonschema::draft202012::meta::is_valid(&schema));
    for facts in sriov_dra::claim::field_facts() {
        let below = facts.path.split('.');
        let field = below.fold(&schema["$defs"]["VfConfig"], |of, name| &of["properties"][name]);
        assert!(field["description"].as_str().unwrap().starts_with(facts.about), "{}: {field}", facts.path);
    }
}

#[test]
fn good_parameters_are_valid_and_bad_ones_are_not() {
    let (_, validator) = schema();
    for case in good() {
        let faults: Vec<String> = validator.iter_errors(&case.parameters).map(|e| e.to_string()).collect();
        assert_eq!(faults, [""; 0], "{case:?}");
    }
    // A schema knows neither who says something nor what digits in a text amount to.
    let ends = ["199-100", "4000-5000", "0-8", "4294967296"].map(|range| json!([range]));
    for case in bad() {
        let only_by_whom = decode_parameters(&case.parameters, Source::Class).is_ok();
        let by_digits = ends.contains(&case.parameters["allow"][0]["values"]);
        assert_eq!(validator.is_valid(&case.parameters), only_by_whom || by_digits, "{case:?}");
    }
}

#[test]
fn the_parameters_of_every_example_are_valid() {
    let (_, validator) = schema();
    let mut found = 0;
    for folder in ["examples", "examples/rails", "examples/seeds", "manifests"] {
        let entries = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        for path in paths.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")) {
            let text = std::fs::read_to_string(&path).unwrap();
            for document in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
                let configs = ["/spec/config", "/spec/devices/config", "/spec/spec/devices/config"];
                for config in configs.iter().filter_map(|place| document.pointer(place)?.as_array()).flatten()
                {
                    let parameters = &config["opaque"]["parameters"];
                    let faults: Vec<String> =
                        validator.iter_errors(parameters).map(|e| e.to_string()).collect();
                    assert_eq!(faults, [""; 0], "{}", path.display());
                    found += 1;
                }
            }
        }
    }
    assert!(found >= 4, "only {found} configs were found");
}

#[test]
fn what_is_no_object_of_a_known_kind_is_not_valid() {
    let (_, validator) = schema();
    for parameters in [json!({}), json!(null), json!([]), json!("VfConfig"), json!({"kind": "VfConfig"})] {
        assert!(!validator.is_valid(&parameters), "{parameters}");
    }
}
