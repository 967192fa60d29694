//! Amounts as they are written in documents: `1.234,56`, `1,234.56`, `1 234,56`, `(123.45)`, `EUR 12,50`, `12.50-`.

use super::Decimal;

/// Longest text that is read as an amount, in bytes.
const MAX_LEN: usize = 64;

/// The sign between whole and fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecimalMark {
    /// `1,234.56`
    Dot,
    /// `1.234,56`
    Comma,
}

/// A written amount: what it means with each decimal mark. `1.234` is 1.234 or 1234.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amount {
    /// Its value if the decimal mark is a dot; `None` if it cannot be.
    pub dot: Option<Decimal>,
    /// Its value if the decimal mark is a comma.
    pub comma: Option<Decimal>,
    /// ISO 4217 code of the currency beside it, `None` without one.
    pub currency: Option<&'static str>,
    /// Whether a `%` stands behind it.
    pub is_percent: bool,
}

impl Amount {
    /// Reads a text that is an amount as a whole; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_LEN {
            return None;
        }
        let mut rest = text;
        let mut currency = None;
        let mut is_negative = false;
        let mut has_sign = false;
        let mut is_percent = false;
        // Signs, brackets and currencies stand in any order around the digits, each at most once.
        loop {
            rest = rest.trim_matches(is_space);
            if let Some((code, left)) = strip_currency(rest) {
                if currency.replace(code).is_some() {
                    return None;
                }
                rest = left;
            } else if let Some(left) = strip_sign(rest) {
                if std::mem::replace(&mut has_sign, true) {
                    return None;
                }
                is_negative = true;
                rest = left;
            } else if let Some(left) = rest.strip_prefix('+') {
                if std::mem::replace(&mut has_sign, true) {
                    return None;
                }
                rest = left;
            } else if let Some(left) = rest.strip_suffix('%') {
                if std::mem::replace(&mut is_percent, true) {
                    return None;
                }
                rest = left;
            } else {
                break;
            }
        }
        let sign = |value: Decimal| if is_negative { value.negated() } else { value };
        let dot = read(rest, '.', &[',', '\'', '’']).map(sign);
        let comma = read(rest, ',', &['.', '\'', '’']).map(sign);
        (dot.is_some() || comma.is_some()).then_some(Amount { dot, comma, currency, is_percent })
    }

    /// An exact value.
    pub fn exact(value: Decimal) -> Self {
        Amount { dot: Some(value), comma: Some(value), currency: None, is_percent: false }
    }

    /// The one decimal mark that it can have, if there is but one.
    pub fn mark(&self) -> Option<DecimalMark> {
        match (self.dot, self.comma) {
            (Some(_), None) => Some(DecimalMark::Dot),
            (None, Some(_)) => Some(DecimalMark::Comma),
            _ => None,
        }
    }

    /// Its value in a document of this decimal mark. What can only be written with the other one means that all the same:
    /// `1443.35`, as a model writes the `1.443,35` that it has read.
    pub fn value(&self, mark: DecimalMark) -> Option<Decimal> {
        match mark {
            DecimalMark::Dot => self.dot.or(self.comma),
            DecimalMark::Comma => self.comma.or(self.dot),
        }
    }

    /// Its value, if it has but one.
    pub fn only(&self) -> Option<Decimal> {
        match (self.dot, self.comma) {
            (Some(a), Some(b)) => (a == b).then_some(a),
            (one, None) | (None, one) => one,
        }
    }

    /// Its values: one, or two that differ.
    pub fn values(&self) -> impl Iterator<Item = Decimal> {
        let comma = self.comma.filter(|value| Some(*value) != self.dot);
        self.dot.into_iter().chain(comma)
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\u{a0}' | '\u{202f}' | '\u{2009}' | '\t')
}

/// Digits in groups of three (or of two before the last three, as in India), or without groups.
fn read(text: &str, mark: char, groups: &[char]) -> Option<Decimal> {
    let (whole, fraction) = match text.split_once(mark) {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    // `12,-` and `12.—` are whole amounts.
    let fraction = match fraction {
        Some("-" | "–" | "—" | "--") => None,
        other => other,
    };
    if fraction.is_some_and(|f| f.is_empty() || !f.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let mut digits = String::new();
    let separator = whole.chars().find(|c| !c.is_ascii_digit());
    match separator {
        None => digits.push_str(whole),
        Some(separator) if is_space(separator) || groups.contains(&separator) => {
            let parts: Vec<&str> = whole.split(separator).collect();
            let (last, others) = parts.split_last()?;
            let (first, middle) = others.split_first()?;
            let is_digits = |part: &&str| part.bytes().all(|b| b.is_ascii_digit());
            let by_three = middle.iter().all(|part| part.len() == 3);
            // Lakhs are written with commas alone.
            let by_two = separator == ',' && middle.iter().all(|part| part.len() == 2);
            let first_max = if by_three { 3 } else { 2 };
            if !(by_three || by_two)
                || last.len() != 3
                || !(1..=first_max).contains(&first.len())
                || !parts.iter().all(is_digits)
            {
                return None;
            }
            // 0.123.456 is no number.
            if first.starts_with('0') {
                return None;
            }
            digits.extend(parts);
        }
        Some(_) => return None,
    }
    if digits.is_empty() {
        return None;
    }
    match fraction {
        Some(fraction) => format!("{digits}.{fraction}").parse().ok(),
        None => digits.parse().ok(),
    }
}

/// Without what makes it negative: a minus before or behind, brackets.
fn strip_sign(text: &str) -> Option<&str> {
    let minus = ['-', '\u{2212}', '–'];
    if let Some(inner) = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        return Some(inner);
    }
    if let Some(rest) = text.strip_prefix(minus) {
        return Some(rest);
    }
    // Behind digits alone: `12.50-`, but not the dash of `12,-`.
    let rest = text.strip_suffix(minus)?;
    rest.ends_with(|c: char| c.is_ascii_digit()).then_some(rest)
}

/// Signs of currencies. `$` and `¥` are those of several; who needs certainty compares codes.
const SYMBOLS: [(&str, &str); 24] = [
    ("US$", "USD"),
    ("A$", "AUD"),
    ("C$", "CAD"),
    ("CA$", "CAD"),
    ("NZ$", "NZD"),
    ("HK$", "HKD"),
    ("S$", "SGD"),
    ("R$", "BRL"),
    ("€", "EUR"),
    ("$", "USD"),
    ("£", "GBP"),
    ("¥", "JPY"),
    ("₹", "INR"),
    ("₽", "RUB"),
    ("₺", "TRY"),
    ("₴", "UAH"),
    ("₩", "KRW"),
    ("₪", "ILS"),
    ("zł", "PLN"),
    ("Kč", "CZK"),
    ("Ft", "HUF"),
    ("lei", "RON"),
    ("Fr.", "CHF"),
    ("SFr.", "CHF"),
];

/// ISO 4217 codes that are in use.
const CODES: &str = "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD \
CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD \
HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL \
MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD \
RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD \
UYU UZS VED VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG";

/// The ISO 4217 code of a code or sign of a currency as a whole.
pub fn currency_code(text: &str) -> Option<&'static str> {
    let symbol = SYMBOLS.iter().find(|(symbol, _)| *symbol == text).map(|(_, code)| *code);
    symbol.or_else(|| {
        let is_code = text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase());
        CODES.split(' ').find(|code| is_code && *code == text)
    })
}

/// The currency at the beginning or end, and what is left.
fn strip_currency(text: &str) -> Option<(&'static str, &str)> {
    // A word of letters and its signs: `EUR`, `US$`, `zł`.
    let is_digit_like =
        |c: char| c.is_ascii_digit() || "-+(),.%'’\u{2212}–".contains(c) || is_space(c);
    let head = text.find(is_digit_like).unwrap_or(text.len());
    // `Fr.` ends in a dot of its own.
    let heads = [head, head + usize::from(text[head..].starts_with('.'))];
    for end in heads {
        if let Some(code) = currency_code(&text[..end]) {
            return Some((code, &text[end..]));
        }
    }
    let tail = text
        .rfind(is_digit_like)
        .map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
    let code = currency_code(&text[tail..])?;
    Some((code, &text[..tail]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, dot: &str, comma: &str) {
        let read = |value: &str| (!value.is_empty()).then(|| value.parse::<Decimal>().unwrap());
        let amount = Amount::parse(text).unwrap_or_else(|| panic!("{text}"));
        assert_eq!((amount.dot, amount.comma), (read(dot), read(comma)), "{text}");
    }

    #[test]
    fn amounts_are_read_as_they_are_written() {
        check("1.234,56", "", "1234.56");
        check("1,234.56", "1234.56", "");
        check("1 234,56", "", "1234.56");
        check("1\u{202f}234\u{202f}567,8", "", "1234567.8");
        check("1'234.50", "1234.5", "");
        check("12,34,567.80", "1234567.8", "");
        check("(123.45)", "-123.45", "");
        check("-45,00", "", "-45");
        check("45.00-", "-45", "");
        check("\u{2212} 7", "-7", "-7");
        check("100", "100", "100");
        check("12,-", "", "12");
        check("0.5", "0.5", "");
    }

    #[test]
    fn what_may_mean_two_things_means_both() {
        check("1.234", "1.234", "1234");
        check("1,234", "1234", "1.234");
        check("0.123", "0.123", "");
        check("1.234.567", "", "1234567");
    }

    #[test]
    fn currencies_stand_on_either_side() {
        for (text, code) in [
            ("EUR 12.50", "EUR"),
            ("12.50 EUR", "EUR"),
            ("€12.50", "EUR"),
            ("-€12.50", "EUR"),
            ("€ -12.50", "EUR"),
            ("$12.50", "USD"),
            ("US$ 12.50", "USD"),
            ("12.50 zł", "PLN"),
            ("(GBP 12.50)", "GBP"),
            ("Fr. 12.50", "CHF"),
            ("12.50€", "EUR"),
        ] {
            let amount = Amount::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(amount.currency, Some(code), "{text}");
            assert_eq!(amount.dot.unwrap().abs().to_string(), "12.5", "{text}");
        }
        assert!(Amount::parse("19 %").unwrap().is_percent);
    }

    #[test]
    fn what_is_no_amount_is_none() {
        let none = [
            "",
            "EUR",
            "abc",
            "12a",
            "1.2.3",
            "1,23,4",
            "RE-2026/0417",
            "17.03.2026",
            "1234 56",
            "12.",
            "--1",
            "EUR 1 EUR",
            "1.23,45,6",
            "()",
            "%",
            "1,2,3",
            "-",
            "XYZ 12",
            "+-1",
            "٣",
        ];
        for text in none {
            assert_eq!(Amount::parse(text), None, "{text}");
        }
    }
}
