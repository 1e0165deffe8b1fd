//! An expression cut at its outermost `&&`, so that the part that fails can be shown.

/// The parts of `a && b && c`; an expression that is no such chain is one part.
///
/// A scan of the text, not of the syntax tree, which keeps no text. What it can't follow stays one part.
pub fn conjuncts(expression: &str) -> Vec<&str> {
    let bytes = expression.as_bytes();
    let mut parts = Vec::new();
    let (mut depth, mut start, mut at) = (0_usize, 0, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' | b'\'' => match after_string(bytes, at) {
                Some(end) => {
                    at = end;
                    continue;
                }
                None => return vec![expression.trim()],
            },
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'&' if depth == 0 && bytes.get(at + 1) == Some(&b'&') => {
                parts.extend(expression.get(start..at));
                at += 2;
                start = at;
                continue;
            }
            // `a || b && c` and `x ? a && b : c` are no chain; comments would need more care than they are worth.
            b'?' | b'|' if depth == 0 => return vec![expression.trim()],
            b'/' if bytes.get(at + 1) == Some(&b'/') => return vec![expression.trim()],
            _ => {}
        }
        at += 1;
    }
    parts.extend(expression.get(start..));
    parts.iter().map(|part| part.trim()).collect()
}

/// The place after the string that starts at `at`; raw strings have no escapes.
fn after_string(bytes: &[u8], at: usize) -> Option<usize> {
    let quote = *bytes.get(at)?;
    let raw =
        at.checked_sub(1).and_then(|before| bytes.get(before)).is_some_and(|b| matches!(b, b'r' | b'R'));
    let long = bytes.get(at..at + 3) == Some(&[quote; 3]);
    let end: &[u8] = if long { &[quote; 3] } else { &[quote] };
    let mut at = at + end.len();
    while at < bytes.len() {
        if bytes.get(at..at + end.len()) == Some(end) {
            return Some(at + end.len());
        }
        at += if !raw && bytes.get(at) == Some(&b'\\') { 2 } else { 1 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::conjuncts;

    #[test]
    fn a_chain_is_cut_only_at_its_outermost_ands() {
        assert_eq!(conjuncts("a && b&&c"), ["a", "b", "c"]);
        assert_eq!(conjuncts("has(a.b) && (a || b && c)"), ["has(a.b)", "(a || b && c)"]);
        assert_eq!(
            conjuncts(r#"x == "a && b" && y == 'it\'s && so'"#),
            [r#"x == "a && b""#, r"y == 'it\'s && so'"]
        );
        assert_eq!(conjuncts(r#"m.matches(r"\") && y"#), [r#"m.matches(r"\")"#, "y"]);
        assert_eq!(conjuncts(r#"x == """a " && b""" && y"#), [r#"x == """a " && b""""#, "y"]);
    }

    #[test]
    fn what_is_no_chain_stays_whole() {
        for whole in ["a || b && c", "a ? b && c : d", "a // && b", r#"x == "open && "#] {
            assert_eq!(conjuncts(whole), [whole.trim()]);
        }
    }
}
