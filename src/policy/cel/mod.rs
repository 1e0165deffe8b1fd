//! CEL expressions over a device, with the object Kubernetes gives to DRA selectors.
//!
//! `device.driver` is the driver name, `device.attributes["domain"].name` an attribute, `device.capacity` the same for
//! quantities. As in Kubernetes (k8s.io/dynamic-resource-allocation/cel) a domain the device has nothing of is an empty
//! map, an attribute it lacks is an error, and the result must be a bool. Of the extension libraries of Kubernetes
//! those for strings, lists, math, semantic versions and quantities are there, and `cel.bind`.
//!
//! `device` holds the object, `library` what Kubernetes adds to CEL, `names` which names an expression uses, `parts`
//! cuts it at its `&&`.

mod device;
mod library;
mod names;
mod parts;
mod quantity;
mod semver;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ::cel::{Context, Env, ExecutionError, Program, Value, extensions};

use super::AttributeValue;
pub use device::DeviceFacts;
pub use names::Named;
pub use parts::conjuncts;
pub use quantity::Quantity;
pub use semver::Semver;

/// What can be wrong with an expression; each is one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CelError {
    /// No CEL.
    #[error("CEL expression {expression:?} is wrong at line {line}, column {column}: {message}")]
    Syntax {
        /// The expression.
        expression: String,
        /// From 1.
        line: isize,
        /// From 1.
        column: isize,
        /// What the parser found.
        message: String,
    },
    /// A name that nothing has.
    #[error(
        "CEL expression {expression:?} refers to {name:?}; the only variable is device, as in device.attributes[\"{domain}\"].pfName"
    )]
    UnknownVariable {
        /// The expression.
        expression: String,
        /// The name.
        name: String,
        /// A domain for the example.
        domain: &'static str,
    },
    /// The device lacks an attribute or field.
    #[error("the device has no {0}; guard it with has() or \"in\"")]
    NoSuchKey(String),
    /// Something else failed while it ran.
    #[error("{0}")]
    Failed(String),
    /// Ran, but to no bool.
    #[error("the result is {0}, it must be true or false")]
    NotBool(String),
}

/// A compiled expression.
pub struct Selector {
    program: Program,
    environment: Arc<Env>,
    expression: String,
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Selector").field(&self.expression).finish()
    }
}

impl Selector {
    /// Compiles an expression.
    ///
    /// # Errors
    /// It is no CEL, or refers to another variable than `device`.
    pub fn compile(expression: &str) -> Result<Self, CelError> {
        let mut environment = Env::stdlib();
        for extension in [extensions::strings, extensions::lists, extensions::math, library::extension] {
            environment.add_extension(extension).map_err(|e| CelError::Failed(e.to_string()))?;
        }
        let program = environment.compile(expression).map_err(|errors| {
            // The first is the cause, the others follow from it.
            let (line, column, message) = match errors.errors.first() {
                Some(error) => (error.pos.0, error.pos.1, one_line(&error.msg)),
                None => (1, 1, "it can't be parsed".to_owned()),
            };
            CelError::Syntax { expression: expression.to_owned(), line, column, message }
        })?;
        if let Some(name) = names::undeclared(program.expression(), &mut Vec::new()) {
            let domain = crate::DEFAULT_DRIVER_NAME;
            return Err(CelError::UnknownVariable { expression: expression.to_owned(), name, domain });
        }
        Ok(Self { program, environment: Arc::new(environment), expression: expression.to_owned() })
    }

    /// The expression as it was given.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The attributes and capacities it names, in the order of their first use, each once.
    pub fn names(&self) -> Vec<Named> {
        names::named(self.program.expression())
    }

    /// Runs it for one device. Keys of attributes are `domain/name`, those without domain belong to the driver.
    ///
    /// # Errors
    /// The expression asks for what the device lacks, mixes types, or its result is no bool.
    pub fn matches(
        &self,
        driver: &str,
        attributes: &BTreeMap<String, AttributeValue>,
    ) -> Result<bool, CelError> {
        self.test(&DeviceFacts::new(driver, attributes, &BTreeMap::new(), false)?)
    }

    /// Runs it for one device.
    ///
    /// # Errors
    /// As for [`Selector::matches`].
    pub fn test(&self, device: &DeviceFacts) -> Result<bool, CelError> {
        let mut context = Context::with_env(Arc::clone(&self.environment));
        context.add_variable_as_val("device", Box::new(device.clone()));
        match self.program.execute(&context) {
            Ok(Value::Bool(answer)) => Ok(answer),
            Ok(other) => Err(CelError::NotBool(format!("a {:?}", other.type_of()).to_lowercase())),
            Err(ExecutionError::NoSuchKey(key)) => Err(CelError::NoSuchKey(key.to_string())),
            Err(error) => Err(CelError::Failed(one_line(&error.to_string()))),
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(expression: &str) -> Result<bool, String> {
        let attributes = [
            ("sriov-dra.io/pfName", AttributeValue::String("ens1f0".into())),
            ("sriov-dra.io/vfIndex", AttributeValue::Int(3)),
            ("sriov-dra.io/rdma", AttributeValue::Bool(true)),
            ("resource.kubernetes.io/pcieRoot", AttributeValue::String("pci0000:80".into())),
        ];
        let attributes = attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let selector = Selector::compile(expression).map_err(|e| e.to_string())?;
        selector.matches("sriov-dra.io", &attributes).map_err(|e| e.to_string())
    }

    #[test]
    fn expressions_see_a_device_as_kubernetes_shows_it() {
        for (expression, answer) in [
            (r#"device.driver == "sriov-dra.io""#, true),
            (r#"device.attributes["sriov-dra.io"].pfName == "ens1f0""#, true),
            (r#"device.attributes["sriov-dra.io"].pfName in ["ens1f1", "ens2f0"]"#, false),
            (
                r#"device.attributes["sriov-dra.io"].vfIndex >= 2 && device.attributes["sriov-dra.io"].vfIndex < 4"#,
                true,
            ),
            (r#"device.attributes["sriov-dra.io"].rdma"#, true),
            (r#"device.attributes["resource.kubernetes.io"].pcieRoot.startsWith("pci0000")"#, true),
            (r#"has(device.attributes["sriov-dra.io"].numaNode)"#, false),
            (r#""pfName" in device.attributes["sriov-dra.io"]"#, true),
            (r#""numaNode" in device.attributes["nobody.example"]"#, false),
            (r#""nobody.example" in device.attributes"#, false),
            (r#""sriov-dra.io" in device.attributes"#, true),
            (r#"["ens1f0", "ens1f1"].exists(name, device.attributes["sriov-dra.io"].pfName == name)"#, true),
            (r#"has(device.capacity["sriov-dra.io"].bandwidth)"#, false),
            (r#"device.attributes["sriov-dra.io"].pfName.matches("^ens1f[01]$")"#, true),
            ("device.allowMultipleAllocations", false),
        ] {
            assert_eq!(run(expression), Ok(answer), "{expression}");
        }
    }

    #[test]
    fn versions_and_quantities_compare_as_such() {
        let attributes =
            BTreeMap::from([("fw/version".to_owned(), AttributeValue::Version("22.9.2".into()))]);
        let capacity = BTreeMap::from([("bandwidth".to_owned(), "25G".to_owned())]);
        let facts = DeviceFacts::new("sriov-dra.io", &attributes, &capacity, true).unwrap();
        for expression in [
            r#"device.attributes["fw"].version.isLessThan(semver("22.10.0"))"#,
            r#"device.attributes["fw"].version.compareTo(semver("22.9.2")) == 0"#,
            r#"device.attributes["fw"].version == semver("22.9.2+build")"#,
            r#"device.attributes["fw"].version.major() == 22 && !isSemver("22.9")"#,
            r#"device.capacity["sriov-dra.io"].bandwidth == quantity("25000M")"#,
            r#"device.capacity["sriov-dra.io"].bandwidth.isGreaterThan(quantity("20Gi"))"#,
            r#"device.capacity["sriov-dra.io"].bandwidth.sub(quantity("5G")).add(1).asInteger() == 20000000001"#,
            r#"cel.bind(fw, device.attributes["fw"], has(fw.version) && !has(fw.other))"#,
            "device.allowMultipleAllocations",
        ] {
            assert_eq!(Selector::compile(expression).unwrap().test(&facts), Ok(true), "{expression}");
        }
        let text = Selector::compile(r#"device.attributes["fw"].version == "22.9.2""#).unwrap();
        assert_eq!(text.test(&facts), Ok(false), "a version is no string");
    }

    #[test]
    fn the_names_of_an_expression_are_found_however_they_are_written() {
        let names = |expression: &str| {
            let names = Selector::compile(expression).unwrap().names();
            names.iter().map(|named| format!("{}/{}", named.domain, named.name)).collect::<Vec<_>>()
        };
        let x = ["d/x"];
        assert_eq!(names(r#"device.attributes["d"].x == 1 || has(device.attributes["d"].x)"#), x);
        assert_eq!(names(r#"device.attributes["d"]["x"] == 1"#), x);
        assert_eq!(names(r#""x" in device.attributes["d"]"#), x);
        assert_eq!(names(r#"[1, 2].exists(n, device.capacity["d"].x == n)"#), x);
        assert_eq!(names(r#"cel.bind(d, device.attributes["d"], d.x == 1)"#), x);
        assert_eq!(names(r#"device.driver == "d""#), [""; 0]);
    }

    #[test]
    fn what_does_not_compile_is_said_in_one_sentence_with_its_place() {
        let error = run("device.driver == ").unwrap_err();
        assert!(error.contains("line 1, column 1"), "{error}");
        assert!(error.starts_with("CEL expression \"device.driver == \" is wrong"), "{error}");
        assert!(!error.contains('\n'), "{error}");
        let error = run("pfName == \"ens1f0\"").unwrap_err();
        assert!(error.contains("refers to \"pfName\"; the only variable is device"), "{error}");
        assert!(run("[1].exists(x, x == y)").unwrap_err().contains("\"y\""), "y is bound nowhere");
    }

    #[test]
    fn what_can_not_be_answered_for_a_device_is_an_error_and_not_false() {
        for (expression, says) in [
            (r#"device.attributes["sriov-dra.io"].numaNode == 1"#, "no numaNode"),
            (r#"device.attributes["nobody.example"].x == 1"#, "no x"),
            (r#"device.attributes["sriov-dra.io"].pfName"#, "must be true or false"),
            (r#"device.attributes["sriov-dra.io"].pfName > 3"#, "overload"),
            (r#"device.attributes[3].x == 1"#, "overload"),
            ("device.nosuch == 1", "no nosuch"),
        ] {
            let error = run(expression).unwrap_err();
            assert!(error.contains(says), "{expression}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
