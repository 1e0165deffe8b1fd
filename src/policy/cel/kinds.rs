//! Mistakes that are certain without a device: an API server checks types before it takes an expression. Attributes can
//! be anything, so what hangs on them is left to the run; of the rest, what is likely to be written is looked at.

use std::fmt;

use ::cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};

use super::walk::parts;

/// Fields of `device`.
const FIELDS: [(&str, Kind); 4] = [
    ("driver", Kind::String),
    ("attributes", Kind::Map),
    ("capacity", Kind::Map),
    ("allowMultipleAllocations", Kind::Bool),
];
/// Functions of two strings.
const OF_STRINGS: [&str; 4] = ["startsWith", "endsWith", "contains", "matches"];
const COMPARISONS: [(&str, &str); 6] = [
    (operators::EQUALS, "=="),
    (operators::NOT_EQUALS, "!="),
    (operators::LESS, "<"),
    (operators::LESS_EQUALS, "<="),
    (operators::GREATER, ">"),
    (operators::GREATER_EQUALS, ">="),
];
const ARITHMETIC: [(&str, &str); 5] = [
    (operators::ADD, "+"),
    (operators::SUBSTRACT, "-"),
    (operators::MULTIPLY, "*"),
    (operators::DIVIDE, "/"),
    (operators::MODULO, "%"),
];
const LOGIC: [(&str, &str); 3] =
    [(operators::LOGICAL_AND, "&&"), (operators::LOGICAL_OR, "||"), (operators::LOGICAL_NOT, "!")];

/// What a part of an expression is, as far as that is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    List,
    Map,
    Null,
    /// Known when it runs.
    Open,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "true or false",
            Self::Int => "a whole number",
            Self::Uint => "an unsigned number",
            Self::Double => "a floating-point number",
            Self::String => "a string",
            Self::Bytes => "bytes",
            Self::List => "a list",
            Self::Map => "a map",
            Self::Null => "null",
            Self::Open => "anything",
        })
    }
}

impl Kind {
    /// Certainly another one.
    fn is_not(self, other: Self) -> bool {
        self != other && self != Self::Open && other != Self::Open
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }
}

/// The first mistake, to be read after the expression: `reads device.drivr; …`.
pub(super) fn mistake(expression: &IdedExpr) -> Option<String> {
    let of = kind(expression);
    if of.is_not(Kind::Bool) {
        return Some(format!("is {of}; it must be true or false, as a comparison is"));
    }
    inner(expression)
}

fn inner(expression: &IdedExpr) -> Option<String> {
    let (outside, inside) = parts(expression);
    outside.into_iter().chain(inside).find_map(inner).or_else(|| here(expression))
}

fn here(expression: &IdedExpr) -> Option<String> {
    let call = match &expression.expr {
        Expr::Select(select) if is_device(&select.operand) => {
            let field = &select.field;
            let known = FIELDS.map(|(name, _)| name);
            return (!known.contains(&field.as_str()))
                .then(|| format!("reads device.{field}; the fields of a device are {}", known.join(", ")));
        }
        Expr::Call(call) => call,
        _ => return None,
    };
    let name = call.func_name.as_str();
    let kinds: Vec<Kind> = call.target.iter().map(AsRef::as_ref).chain(&call.args).map(kind).collect();
    if let ([one, other], Some(sign)) = (kinds.as_slice(), sign(&COMPARISONS, name)) {
        // Numbers of two kinds have an order, but are never tested for being equal.
        let ordered = !matches!(name, operators::EQUALS | operators::NOT_EQUALS);
        let possible = !one.is_not(*other) || ordered && one.is_number() && other.is_number();
        return (!possible).then(|| {
            format!("compares {one} with {other} ({sign}), which CEL never does; they must be alike")
        });
    }
    if let ([one, other], Some(sign)) = (kinds.as_slice(), sign(&ARITHMETIC, name)) {
        return one.is_not(*other).then(|| format!("has {one} and {other} at {sign}; they must be alike"));
    }
    if let (operators::CONDITIONAL, [_, one, other]) = (name, kinds.as_slice()) {
        return one.is_not(*other).then(|| format!("has {one} and {other} after its ?; they must be alike"));
    }
    if let Some(sign) = sign(&LOGIC, name) {
        let wrong = kinds.iter().find(|kind| kind.is_not(Kind::Bool))?;
        return Some(format!("has {wrong} beside {sign}, which takes only what is true or false"));
    }
    if call.target.is_some() && OF_STRINGS.contains(&name) {
        let wrong = kinds.iter().find(|kind| kind.is_not(Kind::String))?;
        return Some(format!("gives {wrong} to {name}(), which is for strings"));
    }
    if let (operators::INDEX, [map, key]) = (name, call.args.as_slice()) {
        let of_device = matches!(&map.expr, Expr::Select(select) if is_device(&select.operand));
        let key = kind(key);
        return (of_device && key.is_not(Kind::String))
            .then(|| format!("has {key} in device.…[ ]; a domain is a string, as in \"sriov-dra.io\""));
    }
    None
}

fn kind(expression: &IdedExpr) -> Kind {
    match &expression.expr {
        Expr::Literal(literal) => match literal {
            LiteralValue::Boolean(_) => Kind::Bool,
            LiteralValue::Int(_) => Kind::Int,
            LiteralValue::UInt(_) => Kind::Uint,
            LiteralValue::Double(_) => Kind::Double,
            LiteralValue::String(_) => Kind::String,
            LiteralValue::Bytes(_) => Kind::Bytes,
            LiteralValue::Null => Kind::Null,
        },
        Expr::List(_) => Kind::List,
        Expr::Map(_) => Kind::Map,
        Expr::Select(select) if select.test => Kind::Bool,
        Expr::Select(select) if is_device(&select.operand) => {
            FIELDS.iter().find(|(name, _)| *name == select.field).map_or(Kind::Open, |(_, kind)| *kind)
        }
        Expr::Ident(_) if is_device(expression) => Kind::Map,
        Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            (name, _) if sign(&COMPARISONS, name).or(sign(&LOGIC, name)).is_some() => Kind::Bool,
            (operators::IN, _) => Kind::Bool,
            (operators::CONDITIONAL, [_, one, other]) => alike(one, other),
            (name, [one, other]) if sign(&ARITHMETIC, name).is_some() => {
                // Of the rest there are times and lengths of time, which mix.
                Some(alike(one, other))
                    .filter(|of| of.is_number() || *of == Kind::String)
                    .unwrap_or(Kind::Open)
            }
            (name, _) if call.target.is_some() && OF_STRINGS.contains(&name) => Kind::Bool,
            ("size", _) => Kind::Int,
            ("string", _) => Kind::String,
            _ => Kind::Open,
        },
        _ => Kind::Open,
    }
}

/// Each part is looked at once: expressions nest.
fn alike(one: &IdedExpr, other: &IdedExpr) -> Kind {
    let one = kind(one);
    if one == kind(other) { one } else { Kind::Open }
}

fn is_device(expression: &IdedExpr) -> bool {
    matches!(&expression.expr, Expr::Ident(name) if name == "device")
}

fn sign<'s>(signs: &[(&str, &'s str)], operator: &str) -> Option<&'s str> {
    signs.iter().find(|(name, _)| *name == operator).map(|(_, sign)| *sign)
}
