//! The parts of a parsed expression, and how deep it is.

use ::cel::common::ast::{EntryExpr, Expr, IdedExpr};

/// Parts of an expression, those of a macro that see its variables apart.
pub(super) fn parts(expression: &IdedExpr) -> (Vec<&IdedExpr>, Vec<&IdedExpr>) {
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
