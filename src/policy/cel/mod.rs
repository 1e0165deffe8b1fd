//! CEL expressions over a device, with the object Kubernetes gives to DRA selectors.
//!
//! `device.driver` is the driver name, `device.attributes["domain"].name` an attribute, `device.capacity` the same for
//! quantities. As in Kubernetes (k8s.io/dynamic-resource-allocation/cel) a domain the device has nothing of is an empty
//! map, an attribute it lacks is an error, and the result must be a bool. Of the extension libraries of Kubernetes
//! those for strings, lists, semantic versions and quantities are there, and `cel.bind`.
//!
//! `device` holds the object, `library` what Kubernetes adds to CEL, `names` which names an expression uses,
//! `functions` and `kinds` what an API server would refuse it for, `parts` cuts it at its `&&`.

mod device;
mod functions;
mod kinds;
mod library;
mod names;
mod parts;
mod quantity;
mod semver;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ::cel::{Context, Env, ExecutionError, ParseErrors, Program, Value, extensions};

use super::AttributeValue;
pub use device::DeviceFacts;
pub use names::Named;
pub use parts::conjuncts;
pub use quantity::Quantity;
pub use semver::Semver;
use walk::levels;

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
    /// More than the parser is trusted with.
    #[error("CEL expression {start:?}… {what}; at most {most} are possible")]
    TooComplex {
        /// Its first characters.
        start: String,
        /// What there is too much of.
        what: String,
        /// The limit.
        most: usize,
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
    /// A function that nothing has.
    #[error(
        "CEL expression {expression:?} calls {name}(), and CEL has no such function (for strings it has contains, \
         endsWith, matches, startsWith and others, in just these letters)"
    )]
    UnknownFunction {
        /// The expression.
        expression: String,
        /// The name.
        name: String,
    },
    /// A function that Kubernetes has.
    #[error(
        "CEL expression {expression:?} calls {name}(), which Kubernetes has and this program has not: what it answers \
         can't be told here"
    )]
    OnlyInKubernetes {
        /// The expression.
        expression: String,
        /// The name.
        name: String,
    },
    /// Wrong for every device.
    #[error("CEL expression {expression:?} {mistake}")]
    Mistake {
        /// The expression.
        expression: String,
        /// Goes on after the expression.
        mistake: String,
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

impl CelError {
    /// An API server takes no object with this expression. Not so where only this program is at its limits.
    pub fn is_refused_by_kubernetes(&self) -> bool {
        match self {
            Self::Syntax { .. }
            | Self::UnknownVariable { .. }
            | Self::UnknownFunction { .. }
            | Self::Mistake { .. } => true,
            Self::TooComplex { .. }
            | Self::OnlyInKubernetes { .. }
            | Self::NoSuchKey(_)
            | Self::Failed(_)
            | Self::NotBool(_) => false,
        }
    }
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
    /// It is no CEL, refers to another variable than `device` or to a function nobody has, or can't be right for any
    /// device.
    pub fn compile(expression: &str) -> Result<Self, CelError> {
        let mut environment = Env::stdlib();
        for extension in [extensions::strings, extensions::lists, library::extension] {
            environment.add_extension(extension).map_err(|e| CelError::Failed(e.to_string()))?;
        }
        // An overflow of the stack is no error that could be handled, so it must not come to one.
        if expression.len() > MOST_BYTES {
            return Err(too_complex(expression, format!("has {} bytes", expression.len()), MOST_BYTES));
        }
        let compile = || {
            let program = environment.compile(expression).map_err(|errors| syntax(expression, &errors))?;
            match levels(program.expression()) {
                deep if deep > MOST_LEVELS => {
                    Err(too_complex(expression, format!("is nested {deep} levels deep"), MOST_LEVELS))
                }
                _ => Ok(program),
            }
        };
        let program = std::thread::scope(|scope| {
            let parser = std::thread::Builder::new().stack_size(PARSER_STACK);
            let parser = parser.spawn_scoped(scope, compile);
            let parser =
                parser.map_err(|e| CelError::Failed(format!("no thread for the CEL parser: {e}")))?;
            let broken = |_| CelError::Failed(format!("the CEL parser broke down over {expression:?}"));
            parser.join().map_err(broken)?
        })?;
        let environment = Arc::new(environment);
        let own = || expression.to_owned();
        let missing = functions::missing(program.expression(), &environment);
        if let Some(functions::Missing { name, elsewhere: true }) = missing {
            return Err(CelError::OnlyInKubernetes { expression: own(), name });
        }
        if let Some(name) = names::undeclared(program.expression(), &mut Vec::new()) {
            let domain = crate::DEFAULT_DRIVER_NAME;
            return Err(CelError::UnknownVariable { expression: own(), name, domain });
        }
        if let Some(functions::Missing { name, .. }) = missing {
            return Err(CelError::UnknownFunction { expression: own(), name });
        }
        if let Some(mistake) = kinds::mistake(program.expression()) {
            return Err(CelError::Mistake { expression: own(), mistake });
        }
        Ok(Self { program, environment, expression: own() })
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

/// Stack of the thread that parses; pages that are not used cost nothing. Chains of operators take some 100 KiB for
/// each link, more than a worker thread has for all of them.
const PARSER_STACK: usize = 256 << 20;
/// Bytes of an expression; Kubernetes takes 10 KiB. With this many no chain is too long for the parser's stack.
const MOST_BYTES: usize = 4096;
/// Levels of an expression. With this many the evaluation fits the 2 MiB of a worker thread.
const MOST_LEVELS: usize = 32;

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn too_complex(expression: &str, what: String, most: usize) -> CelError {
    CelError::TooComplex { start: expression.chars().take(20).collect(), what, most }
}

fn syntax(expression: &str, errors: &ParseErrors) -> CelError {
    if errors.errors.iter().any(|error| error.msg.contains("Recursion limit")) {
        return too_complex(expression, "is nested too deep to be parsed".to_owned(), MOST_LEVELS);
    }
    // The first is the cause, the others follow from it.
    let (line, column, message) = match errors.errors.first() {
        Some(error) => (error.pos.0, error.pos.1, one_line(&error.msg)),
        None => (1, 1, "it can't be parsed".to_owned()),
    };
    CelError::Syntax { expression: expression.to_owned(), line, column, message }
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
            ("1 < 1.5 && 1u < 2", true),
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
    fn what_an_api_server_refuses_does_not_compile() {
        for (expression, says) in [
            (
                r#"device.attributes["sriov-dra.io"].pfName.startWith("ens")"#,
                "calls startWith(), and CEL has no such",
            ),
            ("nosuch(1) == 2", "calls nosuch(), and CEL has no such function"),
            ("strings.nosuch(1) == 2", "calls strings.nosuch()"),
            ("math.greatest(1, 2) == 2", "refers to \"math\""),
            (r#"["a"].exists(x, x.nosuch())"#, "calls nosuch()"),
            (
                "device.nosuch == 1",
                "reads device.nosuch; the fields of a device are driver, attributes, capacity",
            ),
            ("has(device.drivr)", "reads device.drivr"),
            (r#""abc""#, "is a string; it must be true or false"),
            ("device.driver", "is a string; it must be true or false"),
            (r#"1 == "a""#, "compares a whole number with a string (==)"),
            ("device.driver > 3", "compares a string with a whole number (>)"),
            ("device.driver.startsWith(3)", "gives a whole number to startsWith(), which is for strings"),
            ("device.driver && true", "has a string beside &&"),
            ("1 == 1.0", "compares a whole number with a floating-point number (==)"),
            (r#"device.driver + 1 == "a""#, "has a string and a whole number at +"),
            (r#"true ? 1 : "a""#, "after its ?; they must be alike"),
            ("device.attributes[3].x == 1", "has a whole number in device"),
        ] {
            let error = Selector::compile(expression).unwrap_err();
            assert!(error.is_refused_by_kubernetes(), "{expression}: {error}");
            let text = error.to_string();
            assert!(text.contains(says), "{expression}: {text}");
            assert!(text.starts_with(&format!("CEL expression {expression:?} ")), "{text}");
        }
    }

    #[test]
    fn functions_of_kubernetes_that_are_not_here_are_not_called_wrong() {
        for expression in [
            r#"device.attributes["d"].address.find("[0-9]+") == "1""#,
            r#"ip("10.0.0.1").family() == 4"#,
            "sets.contains([1], [1])",
            "[1, 2].sum() == 3",
        ] {
            let error = Selector::compile(expression).unwrap_err();
            assert!(matches!(error, CelError::OnlyInKubernetes { .. }), "{expression}: {error}");
            assert!(!error.is_refused_by_kubernetes());
        }
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let deep = format!("{}true{}", "(".repeat(3000), ")".repeat(3000));
        let garbage = [
            "",
            " ",
            "(((",
            "\"",
            "'\\",
            "\u{1F600}",
            "device.",
            "device[",
            "a ? b",
            "1 +",
            "{",
            "0x",
            "//",
            "\0",
            "in",
            "[1].all(",
            &deep,
        ];
        for expression in garbage {
            assert!(Selector::compile(expression).is_err(), "{:.20} was accepted", expression);
        }
        assert!(run("1 / 0 == 1").is_err());
        assert!(run("9223372036854775807 + 1 > 0").is_err());
    }

    #[test]
    fn expressions_at_the_limits_run_on_a_small_stack_and_those_above_are_refused() {
        let chain = |link: &str, count: usize| vec!["1"; count].join(link);
        let nested = |count: usize| format!("{}true{}", "[".repeat(count), "]".repeat(count));
        for (expression, answer) in [
            (format!("{} > 0", chain(" + ", MOST_LEVELS - 1)), true),
            (format!("{} == {}", nested(MOST_LEVELS - 2), nested(MOST_LEVELS - 2)), true),
            (vec!["device.driver != ''"; 150].join(" && "), true),
        ] {
            assert_eq!(run(&expression), Ok(answer), "{expression}");
        }
        for (expression, says) in [
            (
                format!("{} > 0", chain(" + ", MOST_LEVELS)),
                "is nested 33 levels deep; at most 32 are possible",
            ),
            (chain("+", 2048), "levels deep; at most 32"),
            (chain("==", 1365), "levels deep; at most 32"),
            (chain(" in ", 819), "levels deep; at most 32"),
            (format!("device{}", ".a".repeat(2045)), "levels deep; at most 32"),
            (nested(2046), "is nested too deep to be parsed; at most 32"),
            (format!("{:4097}", "true"), "has 4097 bytes; at most 4096 are possible"),
        ] {
            let error = run(&expression).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_can_not_be_answered_for_a_device_is_an_error_and_not_false() {
        for (expression, says) in [
            (r#"device.attributes["sriov-dra.io"].numaNode == 1"#, "no numaNode"),
            (r#"device.attributes["nobody.example"].x == 1"#, "no x"),
            (r#"device.attributes["sriov-dra.io"].pfName"#, "must be true or false"),
            (r#"device.attributes["sriov-dra.io"].pfName > 3"#, "overload"),
        ] {
            let error = run(expression).unwrap_err();
            assert!(error.contains(says), "{expression}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
