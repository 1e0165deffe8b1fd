//! The docs: their table of fields is the program's, their examples are good, their sentences are said.

use std::path::Path;

use serde_json::Value;
use sriov_dra::claim::{FieldFacts, Form, Source, Who, decode_parameters, field_facts};
use sriov_dra::cli::check::report;
use sriov_dra::cli::documents::Documents;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn row(facts: &FieldFacts) -> String {
    let takes = match &facts.form {
        Form::Switch => "`true`, `false`".to_owned(),
        Form::Number { shown, .. } => shown.clone(),
        Form::Word(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Form::Text(form) => form.what.to_owned(),
        Form::Objects { fields, most } => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, of, needed)| {
                    let optional = if *needed { "" } else { " (may be left out)" };
                    format!("`{name}` {}{optional}", of.what)
                })
                .collect();
            format!("list of at most {most}: {}", fields.join(", "))
        }
        Form::List { of, most } => format!("list of at most {most}: {}", of.what),
    };
    let who = match facts.who {
        Who::Anyone => "anyone",
        Who::Granted => "class, or grant",
        Who::Class => "class",
    };
    format!("| `{}` | {takes} | {who} | {} |", facts.path, facts.about)
}

#[test]
fn the_table_of_fields_is_that_of_the_program() {
    let text = read("docs/vfconfig.md");
    let wanted: Vec<String> = field_facts().iter().map(row).collect();
    let rows = text.lines().skip_while(|line| *line != "|---|---|---|---|").skip(1);
    let there: Vec<&str> = rows.take_while(|line| line.starts_with('|')).collect();
    assert_eq!(there, wanted, "it should be:\n{}", wanted.join("\n"));
    let tenancy = read("docs/tenancy.md");
    for facts in field_facts().iter().filter(|facts| facts.who != Who::Granted) {
        let name = facts.path.split('.').nth(1).unwrap();
        assert!(tenancy.contains(name), "docs/tenancy.md says of {} who may set it", facts.path);
    }
}

/// Blocks of YAML.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while lines.any(|line| line == "```yaml") {
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(block.join("\n"));
    }
    blocks
}

#[test]
fn every_block_of_yaml_is_without_fault() {
    let (mut objects, mut fragments) = (0, 0);
    for path in ["docs/vfconfig.md", "docs/tenancy.md"] {
        for block in blocks(&read(path)) {
            if block.contains("apiVersion: resource.k8s.io/v1") {
                let mut documents = Documents::default();
                documents.parse(path, &block, sriov_dra::DEFAULT_DRIVER_NAME).unwrap();
                let report = report(documents, sriov_dra::DEFAULT_DRIVER_NAME, "team-a");
                assert!(report.ok && report.objects > 0, "{path}: {:#?}", report.faults);
                objects += 1;
            } else if !block.contains("kind: ResourceQuota") {
                let mut parameters: Value = serde_saphyr::from_str(&block).unwrap();
                parameters["apiVersion"] = "sriov-dra.io/v1alpha1".into();
                parameters["kind"] = "VfConfig".into();
                decode_parameters(&parameters, Source::Claim).unwrap();
                fragments += 1;
            }
        }
    }
    assert!(objects >= 2 && fragments >= 3, "{objects} objects, {fragments} fragments");
}
