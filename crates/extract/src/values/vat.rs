//! VAT identification numbers of the European Union, Great Britain, Norway and Switzerland.
//!
//! Check digits are verified where the algorithm is public and holds for all numbers in use; of the other countries the form
//! alone is.

use super::Wrong;

/// What was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VatCheck {
    /// Form and check digits.
    CheckDigits,
    /// The form alone: the country's check digits are not public, or not those of all numbers.
    FormOnly,
}

/// Forms by country: `9` a digit, `A` a letter, `X` either; several with `|`. EL is Greece.
const FORMS: &str = "AT:U99999999 BE:9999999999 BG:999999999|9999999999 CY:99999999A CZ:99999999|999999999|9999999999 \
DE:999999999 DK:99999999 EE:999999999 EL:999999999 ES:X9999999X FI:99999999 FR:XX999999999 HR:99999999999 HU:99999999 \
IE:9X99999A|9999999AA IT:99999999999 LT:999999999|999999999999 LU:99999999 LV:99999999999 MT:99999999 \
NL:XXXXXXXXXB99 PL:9999999999 PT:999999999 RO:99|999|9999|99999|999999|9999999|99999999|999999999|9999999999 \
SE:999999999999 SI:99999999 SK:9999999999 XI:999999999|999999999999 GB:999999999|999999999999 NO:999999999 \
CHE:999999999";

/// Checks a number with its country before it; spaces, dots and dashes do not count, nor does `MVA`, `MWST`, `TVA`, `IVA`
/// behind numbers of Norway and Switzerland.
///
/// # Errors
/// What is wrong, in words.
pub fn check_vat_id(text: &str) -> Result<VatCheck, Wrong> {
    let id: String = text.chars().filter(|c| !c.is_whitespace() && !".-".contains(*c)).collect();
    let id = id.to_ascii_uppercase();
    if !id.bytes().all(|b| b.is_ascii_alphanumeric()) || id.len() < 4 {
        return Err("a VAT id is a country and up to 12 letters and digits".into());
    }
    let (country, number) = if id.starts_with("CHE") { id.split_at(3) } else { id.split_at(2) };
    let number = match country {
        "NO" => number.strip_suffix("MVA").unwrap_or(number),
        "CHE" => {
            ["MWST", "TVA", "IVA"].iter().find_map(|end| number.strip_suffix(end)).unwrap_or(number)
        }
        _ => number,
    };
    let forms = FORMS.split(' ').find_map(|entry| entry.strip_prefix(country)?.strip_prefix(':'));
    let Some(forms) = forms else {
        return Err(format!("`{country}` is no country whose VAT ids are known here"));
    };
    if !forms.split('|').any(|form| has_form(number, form)) {
        return Err(format!("a VAT id of {country} has the form {}", forms.replace('|', " or ")));
    }
    let digits: Vec<u32> = number.chars().filter_map(|c| c.to_digit(10)).collect();
    match are_digits_right(country, number, &digits) {
        Some(true) => Ok(VatCheck::CheckDigits),
        Some(false) => Err("the check digits do not fit".into()),
        None => Ok(VatCheck::FormOnly),
    }
}

fn has_form(number: &str, form: &str) -> bool {
    number.len() == form.len()
        && number.bytes().zip(form.bytes()).all(|(byte, form)| match form {
            b'9' => byte.is_ascii_digit(),
            b'A' => byte.is_ascii_uppercase(),
            b'X' => byte.is_ascii_alphanumeric(),
            // Fixed letters: `U` of Austria, `B` of the Netherlands.
            _ => byte == form,
        })
}

/// Whether the check digits fit; `None` where they are not verified. `d` are the digits of `number`.
fn are_digits_right(country: &str, number: &str, d: &[u32]) -> Option<bool> {
    let last = *d.last()?;
    Some(match country {
        "AT" => (10 - (luhn(&d[..7], 1) + 4) % 10) % 10 == last,
        "BE" => 97 - value(&d[..8]) % 97 == value(&d[8..]),
        "DE" | "HR" => iso_7064_mod_11_10(&d[..d.len() - 1]) == last,
        "DK" => weighted(d, &[2, 7, 6, 5, 4, 3, 2, 1]).is_multiple_of(11),
        "EE" => (10 - weighted(&d[..8], &[3, 7, 1, 3, 7, 1, 3, 7]) % 10) % 10 == u64::from(last),
        "EL" => weighted(&d[..8], &[256, 128, 64, 32, 16, 8, 4, 2]) % 11 % 10 == u64::from(last),
        "FI" => weighted(d, &[7, 9, 10, 5, 8, 4, 2, 1]).is_multiple_of(11),
        // Keys with letters follow another rule.
        "FR" if number.bytes().all(|b| b.is_ascii_digit()) => {
            (value(&d[2..]) * 100 + 12) % 97 == value(&d[..2])
        }
        "HU" => (10 - weighted(&d[..7], &[9, 7, 3, 1, 9, 7, 3]) % 10) % 10 == u64::from(last),
        "IT" => (10 - luhn(&d[..10], 1) % 10) % 10 == last,
        "LU" => value(&d[..6]) % 89 == value(&d[6..]),
        "MT" => 37 - weighted(&d[..6], &[3, 4, 6, 7, 8, 9]) % 37 == value(&d[6..]),
        "PL" => weighted(&d[..9], &[6, 5, 7, 2, 3, 4, 5, 6, 7]) % 11 == u64::from(last),
        "PT" => mod_11(weighted(&d[..8], &[9, 8, 7, 6, 5, 4, 3, 2])) == last,
        "SE" => (10 - luhn(&d[..9], 0) % 10) % 10 == d[9],
        "SI" => match 11 - weighted(&d[..7], &[8, 7, 6, 5, 4, 3, 2]) % 11 {
            11 => false,
            10 => last == 0,
            digit => digit == u64::from(last),
        },
        "SK" => value(d).is_multiple_of(11),
        "NO" => mod_11_strict(weighted(&d[..8], &[3, 2, 7, 6, 5, 4, 3, 2])) == Some(last),
        "CHE" => mod_11_strict(weighted(&d[..8], &[5, 4, 3, 2, 7, 6, 5, 4])) == Some(last),
        // Two rules, old and new, are in use side by side.
        "GB" | "XI" => {
            let sum = weighted(&d[..7], &[8, 7, 6, 5, 4, 3, 2]) + value(&d[7..9]);
            sum.is_multiple_of(97) || (sum + 55).is_multiple_of(97)
        }
        _ => return None,
    })
}

/// The digits as a number.
fn value(digits: &[u32]) -> u64 {
    digits.iter().fold(0, |value, digit| value * 10 + u64::from(*digit))
}

fn weighted(digits: &[u32], weights: &[u32]) -> u64 {
    digits.iter().zip(weights).map(|(digit, weight)| u64::from(digit * weight)).sum()
}

/// 11 less the remainder, where 10 and 11 are 0.
fn mod_11(sum: u64) -> u32 {
    match 11 - sum % 11 {
        10 | 11 => 0,
        digit => digit as u32,
    }
}

/// The same where 10 has no digit.
fn mod_11_strict(sum: u64) -> Option<u32> {
    match 11 - sum % 11 {
        10 => None,
        11 => Some(0),
        digit => Some(digit as u32),
    }
}

/// Every second digit, from that at `first` on, counts twice, as the sum of its digits.
fn luhn(digits: &[u32], first: usize) -> u32 {
    let counted = |(at, digit): (usize, &u32)| {
        if at % 2 == first { digit * 2 / 10 + digit * 2 % 10 } else { *digit }
    };
    digits.iter().enumerate().map(counted).sum()
}

/// The check digit of ISO 7064, MOD 11,10.
fn iso_7064_mod_11_10(digits: &[u32]) -> u32 {
    let product = digits.iter().fold(10, |product, digit| {
        let sum = match (digit + product) % 10 {
            0 => 10,
            sum => sum,
        };
        sum * 2 % 11
    });
    (11 - product) % 10
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that companies print on their own sites, and examples of tax offices.
    const GOOD: [&str; 14] = [
        "DE 136 695 976",
        "ATU13585627",
        "BE0428759497",
        "DK13585628",
        "EL094259216",
        "FI20774740",
        "FR 40 303 265 045",
        "HU12892312",
        "IT00743110157",
        "LU15027442",
        "PL8567346215",
        "PT501964843",
        "SE556188840401",
        "GB980780684",
    ];

    #[test]
    fn known_numbers_are_good() {
        for id in GOOD {
            assert_eq!(check_vat_id(id), Ok(VatCheck::CheckDigits), "{id}");
        }
        assert_eq!(check_vat_id("SI50223054"), Ok(VatCheck::CheckDigits));
        assert_eq!(check_vat_id("SK2022749619"), Ok(VatCheck::CheckDigits));
        assert_eq!(check_vat_id("EE100931558"), Ok(VatCheck::CheckDigits));
        assert_eq!(check_vat_id("HR33392005961"), Ok(VatCheck::CheckDigits));
        assert_eq!(check_vat_id("MT11679112"), Ok(VatCheck::CheckDigits));
        assert_eq!(check_vat_id("NO 995525828 MVA"), Ok(VatCheck::CheckDigits));
        assert_eq!(check_vat_id("CHE-107.787.577 IVA"), Ok(VatCheck::CheckDigits));
    }

    #[test]
    fn a_wrong_last_digit_is_found() {
        for id in GOOD {
            let id: String = id.chars().filter(|c| *c != ' ').collect();
            let (head, last) = id.split_at(id.len() - 1);
            let others = (0..10).map(|n| n.to_string()).filter(|digit| digit != last);
            // In Sweden's numbers the last two count companies, the check digit stands before.
            let wrong =
                others.filter(|digit| check_vat_id(&format!("{head}{digit}")).is_ok()).count();
            assert_eq!(wrong, if id.starts_with("SE") { 9 } else { 0 }, "{id}");
        }
    }

    #[test]
    fn forms_alone_are_said_to_be_so() {
        assert_eq!(check_vat_id("IE6433435F"), Ok(VatCheck::FormOnly));
        assert_eq!(check_vat_id("NL004495445B01"), Ok(VatCheck::FormOnly));
        assert_eq!(check_vat_id("ESX1234567L"), Ok(VatCheck::FormOnly));
        assert!(check_vat_id("DE12345").unwrap_err().contains("999999999"));
        assert!(check_vat_id("US123456789").unwrap_err().contains("`US`"));
        assert!(check_vat_id("D").is_err() && check_vat_id("DEé").is_err());
    }
}
