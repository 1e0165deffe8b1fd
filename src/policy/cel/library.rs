//! What Kubernetes adds to CEL for selectors: semantic versions, quantities, `cel.bind`.
//!
//! Functions as k8s.io/apiserver/pkg/cel/library documents them.

use ::cel::common::ast::{ComprehensionExpr, Expr, IdedExpr, ListExpr, LiteralValue};
use ::cel::common::types::{CelBool, CelDouble, CelInt, CelString};
use ::cel::parser::{Macro, MacroExprHelper};
use ::cel::{DeclarationError, Env, ExecutionError, ParseError, add_member_overload, add_overload};

use super::{Quantity, Semver};

type Answer<T> = Result<T, ExecutionError>;

/// Registers all of it.
pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    add_overload!(env, fn semver: (CelString<'_>) -> Result<Semver>, name = "semver")?;
    add_overload!(env, fn is_semver: (CelString<'_>) -> CelBool, name = "isSemver")?;
    add_member_overload!(env, fn major: (Semver) -> CelInt, name = "major")?;
    add_member_overload!(env, fn minor: (Semver) -> CelInt, name = "minor")?;
    add_member_overload!(env, fn patch: (Semver) -> CelInt, name = "patch")?;
    add_member_overload!(env, fn compare_versions: (Semver, Semver) -> CelInt, name = "compareTo")?;
    add_member_overload!(env, fn newer: (Semver, Semver) -> CelBool, name = "isGreaterThan")?;
    add_member_overload!(env, fn older: (Semver, Semver) -> CelBool, name = "isLessThan")?;

    add_overload!(env, fn quantity: (CelString<'_>) -> Result<Quantity>, name = "quantity")?;
    add_overload!(env, fn is_quantity: (CelString<'_>) -> CelBool, name = "isQuantity")?;
    add_member_overload!(env, fn is_integer: (Quantity) -> CelBool, name = "isInteger")?;
    add_member_overload!(env, fn as_integer: (Quantity) -> Result<CelInt>, name = "asInteger")?;
    add_member_overload!(env, fn as_float: (Quantity) -> CelDouble, name = "asApproximateFloat")?;
    add_member_overload!(env, fn sign: (Quantity) -> CelInt, name = "sign")?;
    add_member_overload!(env, fn plus: (Quantity, Quantity) -> Quantity, name = "add")?;
    add_member_overload!(env, fn plus_int: (Quantity, CelInt) -> Quantity, name = "add")?;
    add_member_overload!(env, fn minus: (Quantity, Quantity) -> Quantity, name = "sub")?;
    add_member_overload!(env, fn minus_int: (Quantity, CelInt) -> Quantity, name = "sub")?;
    add_member_overload!(env, fn compare_quantities: (Quantity, Quantity) -> CelInt, name = "compareTo")?;
    add_member_overload!(env, fn more: (Quantity, Quantity) -> CelBool, name = "isGreaterThan")?;
    add_member_overload!(env, fn less: (Quantity, Quantity) -> CelBool, name = "isLessThan")?;

    env.add_macro(Macro::receiver("bind", 3, bind))
}

fn semver(text: &CelString<'_>) -> Answer<Semver> {
    text.inner().parse().map_err(|problem: String| ExecutionError::function_error("semver", problem))
}

fn is_semver(text: &CelString<'_>) -> CelBool {
    text.inner().parse::<Semver>().is_ok().into()
}

fn part(version: &Semver, index: usize) -> CelInt {
    let number = version.numbers.get(index).copied().unwrap_or_default();
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

fn major(version: &Semver) -> CelInt {
    part(version, 0)
}

fn minor(version: &Semver) -> CelInt {
    part(version, 1)
}

fn patch(version: &Semver) -> CelInt {
    part(version, 2)
}

fn compare_versions(one: &Semver, other: &Semver) -> CelInt {
    (one.cmp(other) as i64).into()
}

fn newer(one: &Semver, other: &Semver) -> CelBool {
    (one > other).into()
}

fn older(one: &Semver, other: &Semver) -> CelBool {
    (one < other).into()
}

fn quantity(text: &CelString<'_>) -> Answer<Quantity> {
    text.inner().parse().map_err(|problem: String| ExecutionError::function_error("quantity", problem))
}

fn is_quantity(text: &CelString<'_>) -> CelBool {
    text.inner().parse::<Quantity>().is_ok().into()
}

fn is_integer(amount: &Quantity) -> CelBool {
    amount.as_integer().is_some().into()
}

fn as_integer(amount: &Quantity) -> Answer<CelInt> {
    let number = amount.as_integer();
    number.map(Into::into).ok_or_else(|| ExecutionError::function_error("asInteger", "not a whole number"))
}

fn as_float(amount: &Quantity) -> CelDouble {
    amount.as_float().into()
}

fn sign(amount: &Quantity) -> CelInt {
    amount.sign().into()
}

fn plus(one: &Quantity, other: &Quantity) -> Quantity {
    one.plus(*other)
}

fn plus_int(one: &Quantity, other: &CelInt) -> Quantity {
    one.plus(Quantity::whole(*other.inner()))
}

fn minus(one: &Quantity, other: &Quantity) -> Quantity {
    one.minus(*other)
}

fn minus_int(one: &Quantity, other: &CelInt) -> Quantity {
    one.minus(Quantity::whole(*other.inner()))
}

fn compare_quantities(one: &Quantity, other: &Quantity) -> CelInt {
    (one.cmp(other) as i64).into()
}

fn more(one: &Quantity, other: &Quantity) -> CelBool {
    (one > other).into()
}

fn less(one: &Quantity, other: &Quantity) -> CelBool {
    (one < other).into()
}

/// `cel.bind(name, value, expression)`: a comprehension over nothing whose accumulator is the variable (cel-go,
/// ext.Bindings). Any other receiver keeps its call.
fn bind(
    helper: &mut MacroExprHelper<'_>,
    target: &mut Option<IdedExpr>,
    args: &mut Vec<IdedExpr>,
) -> Result<Option<IdedExpr>, ParseError> {
    if !target.as_ref().is_some_and(|target| matches!(&target.expr, Expr::Ident(name) if name == "cel")) {
        return Ok(None);
    }
    let Ok([variable, value, result]) = <[IdedExpr; 3]>::try_from(std::mem::take(args)) else {
        return Ok(None);
    };
    let Expr::Ident(name) = &variable.expr else {
        return Err(
            helper.new_error(variable.id, "cel.bind() variable names must be simple identifiers".to_owned())
        );
    };
    let bound = ComprehensionExpr {
        iter_range: helper.next_expr(Expr::List(ListExpr::new(Vec::new()))),
        iter_var: "#unused".to_owned(),
        iter_var2: None,
        accu_var: name.clone(),
        accu_init: value,
        loop_cond: helper.next_expr(Expr::Literal(LiteralValue::Boolean(false.into()))),
        loop_step: helper.next_expr(Expr::Ident(name.clone())),
        result,
    };
    Ok(Some(helper.next_expr(Expr::Comprehension(Box::new(bound)))))
}
