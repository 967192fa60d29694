//! International bank account numbers, ISO 13616.

use super::Wrong;

/// Countries and the lengths of their numbers, of the SWIFT registry.
const LENGTHS: &str = "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 \
DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 \
KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 \
PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 \
YE30";

/// Checks length and check digits; spaces do not count.
///
/// # Errors
/// What is wrong, in words.
pub fn check_iban(text: &str) -> Result<(), Wrong> {
    let iban: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if !iban.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()) || iban.len() < 5 {
        return Err(
            "an IBAN is two letters, two digits and up to 30 capital letters and digits".into()
        );
    }
    let country = &iban[..2];
    let length = LENGTHS.split(' ').find_map(|entry| entry.strip_prefix(country));
    let Some(length) = length.and_then(|length| length.parse::<usize>().ok()) else {
        return Err(format!("{country} is no country with IBANs"));
    };
    if iban.len() != length {
        return Err(format!("{} characters, but IBANs of {country} have {length}", iban.len()));
    }
    if !iban[2..4].bytes().all(|b| b.is_ascii_digit()) {
        return Err("the two characters after the country are no digits".into());
    }
    // Letters count as two digits, A as 10; the first four characters come last.
    let rest = iban[4..].bytes().chain(iban[..4].bytes()).fold(0_u32, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
    });
    if rest == 1 { Ok(()) } else { Err("the check digits do not fit".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Examples of the registry.
    const GOOD: [&str; 8] = [
        "DE89 3704 0044 0532 0130 00",
        "GB29 NWBK 6016 1331 9268 19",
        "FR14 2004 1010 0505 0001 3M02 606",
        "NL91ABNA0417164300",
        "BE68 5390 0754 7034",
        "CH93 0076 2011 6238 5295 7",
        "ES91 2100 0418 4502 0005 1332",
        "NO93 8601 1117 947",
    ];

    #[test]
    fn examples_of_the_registry_are_good() {
        for iban in GOOD {
            assert_eq!(check_iban(iban), Ok(()), "{iban}");
        }
    }

    #[test]
    fn every_single_wrong_digit_and_swap_is_found() {
        for iban in GOOD {
            let iban: Vec<u8> = iban.bytes().filter(|b| *b != b' ').collect();
            for at in 2..iban.len() {
                for digit in b'0'..=b'9' {
                    let mut wrong = iban.clone();
                    wrong[at] = digit;
                    let is_same = wrong == iban;
                    assert_eq!(check_iban(std::str::from_utf8(&wrong).unwrap()).is_ok(), is_same);
                }
                let mut swapped = iban.clone();
                swapped.swap(at, at - 1);
                if at > 4 && swapped != iban {
                    assert!(check_iban(std::str::from_utf8(&swapped).unwrap()).is_err());
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(check_iban("DE89 3704").unwrap_err().contains("have 22"));
        assert!(check_iban("XX89 3704").unwrap_err().contains("no country"));
        assert!(check_iban("de89é").is_err() && check_iban("").is_err());
    }
}
