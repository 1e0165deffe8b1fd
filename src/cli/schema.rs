//! `sriov-dra schema`: the parameters of claims and classes, for editors and for the API server.

use std::fmt::Write as _;

use crate::DEFAULT_DRIVER_NAME;
use crate::claim::{Policy, json_schema, policy};

/// Arguments of `sriov-dra schema`.
#[derive(Debug, Clone, clap::Args)]
pub struct SchemaArgs {
    /// Print the ValidatingAdmissionPolicy instead, as in manifests/parameters.yaml
    #[arg(long)]
    pub admission: bool,
    /// The driver's name, for the policy: it judges configs for this driver
    #[arg(long, env = "DRIVER_NAME", value_name = "NAME", default_value = DEFAULT_DRIVER_NAME)]
    pub driver_name: String,
}

/// Prints one or the other.
///
/// # Errors
/// When standard output can't be written.
pub fn run(args: &SchemaArgs) -> anyhow::Result<()> {
    let text = match args.admission {
        true => manifest(&args.driver_name)?,
        false => serde_json::to_string_pretty(&json_schema())? + "\n",
    };
    Ok(super::print(&text)?)
}

const HEAD: &str = "\
# What can't be right in a claim, template or class is refused when it is applied: kinds, fields, words, ranges, forms of
# names and addresses; a VfGrant in a claim. Made from the driver's own table of fields:
#
#   sriov-dra schema --admission [--driver-name NAME]
#
# Grants and what several entries add up to are the driver's affair, and it judges everything again.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: sriov-dra-parameters
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    # Requests of other versions are converted to this one.
    - apiGroups: [resource.k8s.io]
      apiVersions: [v1]
      operations: [CREATE, UPDATE]
      resources: [resourceclaims, resourceclaimtemplates, deviceclasses]
  matchConditions:
  # Finalizers and labels of what is there already can be changed, whatever it says.
  - name: says-something-new
    expression: request.operation == \"CREATE\" || object.spec != oldObject.spec
";

const TAIL: &str = "\
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: sriov-dra-parameters
spec:
  policyName: sriov-dra-parameters
  validationActions: [Deny]
";

/// The policy and its binding as YAML.
///
/// # Errors
/// None, in fact.
pub fn manifest(driver: &str) -> Result<String, std::fmt::Error> {
    let Policy { variables, validations } = policy(driver);
    let mut text = HEAD.to_owned();
    text.push_str("  variables:\n");
    for (name, expression) in variables {
        writeln!(text, "  - name: {name}\n    expression: >-\n{}", folded(&expression))?;
    }
    text.push_str("  validations:\n");
    for (expression, message) in validations {
        writeln!(text, "  - expression: >-\n{}\n    message: >-\n{}", folded(&expression), folded(&message))?;
    }
    text.push_str(TAIL);
    Ok(text)
}

/// Characters of a line.
const WIDTH: usize = 120;
const INDENT: &str = "      ";

/// A text on several lines; in a folded scalar of YAML a line's end is a space again.
fn folded(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{INDENT}{word}")),
        }
    }
    lines.join("\n")
}
