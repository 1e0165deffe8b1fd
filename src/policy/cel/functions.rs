//! Functions that an expression calls and nobody has. The interpreter asks for one only when it comes to the call; an
//! API server asks before it takes the expression.

use std::sync::Arc;

use ::cel::common::ast::{Expr, IdedExpr};
use ::cel::{Context, Env, ExecutionError};

use super::names::NOT_VARIABLES;
use super::walk::parts;

/// What Kubernetes 1.34 to 1.37 adds to CEL (k8s.io/apiserver/pkg/cel/library, sets and two-variable comprehensions of
/// cel-go) and the interpreter here has not.
const ONLY_IN_KUBERNETES: [&str; 37] = [
    "isSorted",
    "sum",
    "min",
    "max",
    "indexOf",
    "lastIndexOf",
    "find",
    "findAll",
    "url",
    "isURL",
    "getScheme",
    "getHost",
    "getHostname",
    "getPort",
    "getEscapedPath",
    "getQuery",
    "ip",
    "isIP",
    "ip.isCanonical",
    "family",
    "isUnspecified",
    "isLoopback",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isGlobalUnicast",
    "cidr",
    "isCIDR",
    "containsIP",
    "containsCIDR",
    "prefixLength",
    "masked",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
    "format.named",
    "transformList",
    "transformMap",
];

/// A function that the interpreter has not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// With its namespace.
    pub name: String,
    /// Kubernetes has it.
    pub elsewhere: bool,
}

/// The first one.
pub(super) fn missing(expression: &IdedExpr, environment: &Arc<Env>) -> Option<Missing> {
    let (outside, inside) = parts(expression);
    if let Expr::Call(call) = &expression.expr
        && call.func_name.starts_with(|c: char| c.is_ascii_alphabetic())
    {
        let name = &call.func_name;
        let namespace = match call.target.as_ref().map(|target| &target.expr) {
            Some(Expr::Ident(target)) => Some(target),
            _ => None,
        };
        let full = namespace.map(|namespace| format!("{namespace}.{name}"));
        let elsewhere = full.clone().filter(|full| ONLY_IN_KUBERNETES.contains(&full.as_str()));
        if let Some(name) = elsewhere {
            return Some(Missing { name, elsewhere: true });
        }
        let full = full.filter(|_| namespace.is_some_and(|n| NOT_VARIABLES.contains(&n.as_str())));
        let probe = match (&full, &call.target) {
            (Some(full), _) => format!("{full}()"),
            (None, Some(_)) => format!("[].{name}()"),
            (None, None) => format!("{name}()"),
        };
        if !is_known(&probe, environment) {
            let name = full.unwrap_or_else(|| name.clone());
            return Some(Missing { elsewhere: ONLY_IN_KUBERNETES.contains(&name.as_str()), name });
        }
    }
    outside.into_iter().chain(inside).find_map(|part| missing(part, environment))
}

/// The interpreter doesn't list its functions, but it tells a missing one from one with other arguments.
fn is_known(probe: &str, environment: &Arc<Env>) -> bool {
    let Ok(program) = environment.compile(probe) else { return true };
    !matches!(
        program.execute(&Context::with_env(Arc::clone(environment))),
        Err(ExecutionError::UndeclaredReference(_))
    )
}
