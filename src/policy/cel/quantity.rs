//! Kubernetes quantities (`10Gi`, `100m`, `2e3`), exact to 10⁻⁹.

use std::any::Any;
use std::str::FromStr;

use ::cel::common::types::Type;
use ::cel::common::value::{StaticVal, Val};

/// A quantity in billionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i128);

/// The CEL type.
pub(super) static QUANTITY: Type = Type::new_unspecified_type("kubernetes.Quantity");

/// Billionths of one.
const ONE: i128 = 1_000_000_000;

impl Quantity {
    /// The quantity `number`.
    pub fn whole(number: i64) -> Self {
        Self(i128::from(number) * ONE)
    }

    /// As a whole number, if it is one that fits.
    pub fn as_integer(self) -> Option<i64> {
        (self.0 % ONE == 0).then(|| i64::try_from(self.0 / ONE).ok()).flatten()
    }

    /// The nearest double.
    #[allow(clippy::cast_precision_loss, reason = "that is what was asked for")]
    pub fn as_float(self) -> f64 {
        self.0 as f64 / ONE as f64
    }

    /// -1, 0 or 1.
    pub fn sign(self) -> i64 {
        i64::try_from(self.0.signum()).unwrap_or_default()
    }

    /// The sum; stays at the largest there is.
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference; stays at the smallest there is.
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| format!("{text:?} is no quantity such as 10Gi, 1500 or 100m"))
    }
}

/// `<sign><digits>[.<digits>]<suffix>` (apimachinery, `resource.Quantity`); finer than 10⁻⁹ is rounded away from zero.
fn parse(text: &str) -> Option<Quantity> {
    let (negative, unsigned) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let decimals = i32::try_from(fraction.len()).ok()?;
    let (factor, power) = scale(suffix)?;
    let value = digits.checked_mul(factor)?;
    let shift = power + 9 - decimals;
    let by = 10_i128.checked_pow(shift.unsigned_abs())?;
    let value = if shift >= 0 { value.checked_mul(by)? } else { (value + by - 1) / by };
    Some(Quantity(if negative { -value } else { value }))
}

/// A factor and a power of ten.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    Some(match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        exponent => (1, exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

impl Val for Quantity {
    fn get_type(&self) -> &Type {
        &QUANTITY
    }

    fn cel_type() -> &'static Type {
        &QUANTITY
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<Self>().is_some_and(|other| self == other)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(*self)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Quantity {}

#[cfg(test)]
mod tests {
    use super::Quantity;

    #[test]
    fn equal_amounts_are_equal_however_they_are_written() {
        let of = |text: &str| text.parse::<Quantity>().unwrap();
        for (one, other) in
            [("1Ki", "1024"), ("1500m", "1.5"), ("2e3", "2k"), ("1E", "1e18"), ("-0.5", "-500m"), ("+3", "3")]
        {
            assert_eq!(of(one), of(other), "{one} {other}");
        }
        assert!(of("10Gi") > of("10G"));
        assert_eq!(of("10Gi").as_integer(), Some(10 << 30));
        assert_eq!(of("100m").as_integer(), None);
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "-", ".", "1.2.3", "10gi", "1 Gi", "ten", "1e", "1e99"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }
}
