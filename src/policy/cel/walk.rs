//! Looking through a parsed expression: how deep it is, which names it refers to.

use ::cel::common::ast::{EntryExpr, Expr, IdedExpr};

/// Identifiers that are no variables: types (CEL specification, "Standard Definitions") and namespaces of functions.
const NOT_VARIABLES: [&str; 16] = [
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "dyn",
    "math",
    "strings",
    "lists",
    "optional",
    "base64",
];

/// Parts of an expression, those of a macro that see its variables apart.
fn parts(expression: &IdedExpr) -> (Vec<&IdedExpr>, Vec<&IdedExpr>) {
    match &expression.expr {
        Expr::Select(select) => (vec![&*select.operand], Vec::new()),
        Expr::Call(call) => (call.target.iter().map(AsRef::as_ref).chain(&call.args).collect(), Vec::new()),
        Expr::List(list) => (list.elements.iter().collect(), Vec::new()),
        Expr::Map(map) => (map.entries.iter().flat_map(|entry| of_entry(&entry.expr)).collect(), Vec::new()),
        Expr::Struct(object) => {
            (object.entries.iter().flat_map(|entry| of_entry(&entry.expr)).collect(), Vec::new())
        }
        Expr::Comprehension(all) => {
            (vec![&all.iter_range, &all.accu_init], vec![&all.loop_cond, &all.loop_step, &all.result])
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => (Vec::new(), Vec::new()),
    }
}

fn of_entry(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

/// How many levels an expression has.
pub(super) fn levels(expression: &IdedExpr) -> usize {
    let (outside, inside) = parts(expression);
    1 + outside.into_iter().chain(inside).map(levels).max().unwrap_or_default()
}

/// The first identifier that is neither `device` nor bound by a macro around it.
pub(super) fn undeclared(expression: &IdedExpr, bound: &mut Vec<String>) -> Option<String> {
    if let Expr::Ident(name) = &expression.expr {
        let known = name == "device"
            || name.starts_with('@')
            || NOT_VARIABLES.contains(&name.as_str())
            || bound.contains(name);
        return (!known).then(|| name.clone());
    }
    let (outside, inside) = parts(expression);
    if let Some(name) = outside.into_iter().find_map(|part| undeclared(part, bound)) {
        return Some(name);
    }
    let before = bound.len();
    if let Expr::Comprehension(all) = &expression.expr {
        bound.extend([all.iter_var.clone(), all.accu_var.clone()]);
        bound.extend(all.iter_var2.clone());
    }
    let found = inside.into_iter().find_map(|part| undeclared(part, bound));
    bound.truncate(before);
    found
}
