//! Which names an expression uses: variables that don't exist, attributes it looks at.

use ::cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, operators};

/// Identifiers that are no variables: types (CEL specification, "Standard Definitions") and namespaces of functions.
pub(super) const NOT_VARIABLES: [&str; 15] = [
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
    "strings",
    "lists",
    "optional",
    "base64",
];

/// The first identifier that is neither `device` nor bound by a macro around it.
pub(super) fn undeclared(expression: &IdedExpr, bound: &mut Vec<String>) -> Option<String> {
    match &expression.expr {
        Expr::Ident(name) => {
            let known = name == "device"
                || name.starts_with('@')
                || NOT_VARIABLES.contains(&name.as_str())
                || bound.contains(name);
            (!known).then(|| name.clone())
        }
        Expr::Select(select) => undeclared(&select.operand, bound),
        Expr::Call(call) => {
            call.target.iter().map(AsRef::as_ref).chain(&call.args).find_map(|part| undeclared(part, bound))
        }
        Expr::List(list) => list.elements.iter().find_map(|element| undeclared(element, bound)),
        Expr::Map(map) => entries(map.entries.iter().map(|entry| &entry.expr), bound),
        Expr::Struct(object) => entries(object.entries.iter().map(|entry| &entry.expr), bound),
        Expr::Comprehension(comprehension) => {
            let outside = [&comprehension.iter_range, &comprehension.accu_init];
            if let Some(name) = outside.into_iter().find_map(|part| undeclared(part, bound)) {
                return Some(name);
            }
            let depth = bound.len();
            bound.extend([comprehension.iter_var.clone(), comprehension.accu_var.clone()]);
            bound.extend(comprehension.iter_var2.clone());
            let inside = [&comprehension.loop_cond, &comprehension.loop_step, &comprehension.result];
            let found = inside.into_iter().find_map(|part| undeclared(part, bound));
            bound.truncate(depth);
            found
        }
        Expr::Literal(_) | Expr::Unspecified => None,
    }
}

fn entries<'a>(mut entries: impl Iterator<Item = &'a EntryExpr>, bound: &mut Vec<String>) -> Option<String> {
    entries.find_map(|entry| match entry {
        EntryExpr::StructField(field) => undeclared(&field.value, bound),
        EntryExpr::MapEntry(entry) => {
            undeclared(&entry.key, bound).or_else(|| undeclared(&entry.value, bound))
        }
    })
}

/// An attribute or a capacity that an expression names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// Of `device.capacity`, not of `device.attributes`.
    pub capacity: bool,
    /// `sriov-dra.io`
    pub domain: String,
    /// `pfName`
    pub name: String,
}

/// See [`super::Selector::names`].
pub(super) fn named(expression: &IdedExpr) -> Vec<Named> {
    let mut found = Vec::new();
    collect(expression, &mut Vec::new(), &mut found);
    found
}

/// A variable of `cel.bind` that stands for a domain's map.
type Bound = (String, (bool, String));

fn collect(expression: &IdedExpr, bound: &mut Vec<Bound>, found: &mut Vec<Named>) {
    let mut note = |domain: Option<(bool, String)>, name: Option<&str>| {
        if let (Some((capacity, domain)), Some(name)) = (domain, name) {
            let named = Named { capacity, domain, name: name.to_owned() };
            if !found.contains(&named) {
                found.push(named);
            }
        }
    };
    match &expression.expr {
        Expr::Select(select) => {
            note(domain_of(&select.operand, bound), Some(&select.field));
            collect(&select.operand, bound, found);
        }
        Expr::Call(call) => {
            match (call.func_name.as_str(), call.args.as_slice()) {
                (operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT, [map, name]) => {
                    note(domain_of(map, bound), literal(name));
                }
                (operators::IN, [name, map]) => note(domain_of(map, bound), literal(name)),
                _ => {}
            }
            for part in call.target.iter().map(AsRef::as_ref).chain(&call.args) {
                collect(part, bound, found);
            }
        }
        Expr::List(list) => list.elements.iter().for_each(|part| collect(part, bound, found)),
        Expr::Map(map) => map.entries.iter().for_each(|entry| collect_entry(&entry.expr, bound, found)),
        Expr::Struct(object) => {
            object.entries.iter().for_each(|entry| collect_entry(&entry.expr, bound, found));
        }
        Expr::Comprehension(comprehension) => {
            collect(&comprehension.iter_range, bound, found);
            collect(&comprehension.accu_init, bound, found);
            let depth = bound.len();
            if let Some(domain) = domain_of(&comprehension.accu_init, bound) {
                bound.push((comprehension.accu_var.clone(), domain));
            }
            for part in [&comprehension.loop_cond, &comprehension.loop_step, &comprehension.result] {
                collect(part, bound, found);
            }
            bound.truncate(depth);
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

fn collect_entry(entry: &EntryExpr, bound: &mut Vec<Bound>, found: &mut Vec<Named>) {
    match entry {
        EntryExpr::StructField(field) => collect(&field.value, bound, found),
        EntryExpr::MapEntry(entry) => {
            collect(&entry.key, bound, found);
            collect(&entry.value, bound, found);
        }
    }
}

/// The domain whose map this is: `device.attributes["domain"]` or a variable bound to it.
fn domain_of(expression: &IdedExpr, bound: &[Bound]) -> Option<(bool, String)> {
    match &expression.expr {
        Expr::Ident(name) => {
            bound.iter().rev().find(|(variable, _)| variable == name).map(|(_, domain)| domain.clone())
        }
        Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::INDEX | operators::OPT_INDEX, [maps, domain]) => {
                let Expr::Select(select) = &maps.expr else { return None };
                let of_device = matches!(&select.operand.expr, Expr::Ident(name) if name == "device");
                let capacity = match select.field.as_str() {
                    "attributes" => false,
                    "capacity" => true,
                    _ => return None,
                };
                literal(domain).filter(|_| of_device).map(|domain| (capacity, domain.to_owned()))
            }
            _ => None,
        },
        _ => None,
    }
}

fn literal(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}
