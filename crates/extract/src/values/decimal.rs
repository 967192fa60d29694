//! Exact decimals: what does not fit is an error, nothing is rounded.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Most digits behind the point.
const SCALE_MAX: u32 = 18;

/// An exact decimal: `mantissa / 10^scale`, without zeros at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decimal {
    mantissa: i128,
    scale: u32,
}

impl Decimal {
    /// Zero.
    pub const ZERO: Decimal = Decimal { mantissa: 0, scale: 0 };

    /// `mantissa / 10^scale`; `None` with more than 18 digits behind the point.
    pub fn new(mantissa: i128, scale: u32) -> Option<Self> {
        let (mut mantissa, mut scale) = (mantissa, scale);
        while scale > 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            scale -= 1;
        }
        (scale <= SCALE_MAX).then_some(Decimal { mantissa, scale })
    }

    /// The sum, if it can be held exactly.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let (a, b, scale) = self.aligned(other)?;
        Decimal::new(a.checked_add(b)?, scale)
    }

    /// The difference, if it can be held exactly.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(other.negated())
    }

    /// The product, if it can be held exactly.
    pub fn checked_mul(self, other: Self) -> Option<Self> {
        Decimal::new(self.mantissa.checked_mul(other.mantissa)?, self.scale + other.scale)
    }

    /// A hundredth: what a percentage stands for.
    pub fn hundredth(self) -> Option<Self> {
        Decimal::new(self.mantissa, self.scale + 2)
    }

    /// The same with the other sign.
    #[must_use]
    pub fn negated(self) -> Self {
        Decimal { mantissa: -self.mantissa, ..self }
    }

    /// Without its sign.
    #[must_use]
    pub fn abs(self) -> Self {
        Decimal { mantissa: self.mantissa.abs(), ..self }
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.mantissa < 0
    }

    /// Both as integers of one scale.
    fn aligned(self, other: Self) -> Option<(i128, i128, u32)> {
        let scale = self.scale.max(other.scale);
        let raised = |d: Decimal| d.mantissa.checked_mul(10_i128.checked_pow(scale - d.scale)?);
        Some((raised(self)?, raised(other)?, scale))
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match self.aligned(*other) {
            Some((a, b, _)) => a.cmp(&b),
            // One of them is so large that it could not be raised by the other's digits: whole parts decide.
            None => {
                let whole = |d: &Decimal| d.mantissa / 10_i128.pow(d.scale);
                whole(self).cmp(&whole(other))
            }
        }
    }
}

/// What is no decimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no decimal such as -12.50, or has too many digits")]
pub struct NoDecimal(String);

impl FromStr for Decimal {
    type Err = NoDecimal;

    /// Reads `-12.50`: digits with one point at most, no exponent.
    fn from_str(text: &str) -> Result<Self, NoDecimal> {
        let error = || NoDecimal(text.chars().take(40).collect());
        let (sign, digits) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let is_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let has_point = digits.contains('.');
        if whole.is_empty()
            || has_point && fraction.is_empty()
            || !is_digits(whole)
            || !is_digits(fraction)
        {
            return Err(error());
        }
        let mantissa: i128 = format!("{whole}{fraction}").parse().map_err(|_| error())?;
        let scale = u32::try_from(fraction.len()).map_err(|_| error())?;
        Decimal::new(sign * mantissa, scale).ok_or_else(error)
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let digits = self.mantissa.unsigned_abs().to_string();
        let scale = self.scale as usize;
        if scale == 0 {
            return write!(f, "{sign}{digits}");
        }
        let digits = format!("{digits:0>width$}", width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        write!(f, "{sign}{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn tenths_add_up_as_they_do_on_paper() {
        let sum = (0..10).try_fold(Decimal::ZERO, |sum, _| sum.checked_add(decimal("0.1")));
        assert_eq!(sum, Some(decimal("1")));
        assert_eq!(decimal("1.10").to_string(), "1.1");
        assert_eq!(decimal("-0.05").to_string(), "-0.05");
        assert_eq!(decimal("1234.50").checked_mul(decimal("0.19")).unwrap().to_string(), "234.555");
        assert!(decimal("-0.001") < Decimal::ZERO && decimal("2") > decimal("1.999"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for text in ["", "-", "1.", ".5", "1e3", "1,5", "--1", "+1", "1.2.3", "٣"] {
            assert!(text.parse::<Decimal>().is_err(), "{text}");
        }
        assert!(format!("0.{}1", "0".repeat(18)).parse::<Decimal>().is_err());
        assert!("9".repeat(60).parse::<Decimal>().is_err());
        let large: Decimal = "9".repeat(38).parse().unwrap();
        assert_eq!(large.checked_mul(large), None);
        assert_eq!(large.checked_add(decimal("0.5")), None);
        assert!(large > decimal("0.5") && large.negated() < decimal("-0.5"));
    }

    proptest! {
        #[test]
        fn cents_behave_as_integers(a in -1_000_000_i64..1_000_000, b in -1_000_000_i64..1_000_000) {
            let cents = |n: i64| Decimal::new(n.into(), 2).unwrap();
            prop_assert_eq!(cents(a).checked_add(cents(b)), Some(cents(a + b)));
            prop_assert_eq!(cents(a).checked_sub(cents(b)), Some(cents(a - b)));
            prop_assert_eq!(cents(a).cmp(&cents(b)), a.cmp(&b));
            prop_assert_eq!(cents(a).to_string().parse::<Decimal>().unwrap(), cents(a));
        }
    }
}
