//! Dates as they are written in documents: `2026-03-17`, `17.03.2026`, `03/17/26`, `17. März 2026`, `March 17th, 2026`.

use std::fmt;

/// Longest text that is read as a date, in bytes.
const MAX_LEN: usize = 64;

/// A day of the Gregorian calendar, from 1000 to 2999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

/// What comes first in `03/04/2026`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateOrder {
    /// 3 April.
    DayFirst,
    /// 4 March.
    MonthFirst,
}

/// A written date: what it means with each order of day and month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dates {
    /// If the day comes before the month.
    pub day_first: Option<Date>,
    /// If the month comes before the day.
    pub month_first: Option<Date>,
}

impl Date {
    /// A day; `None` for one that the calendar does not have.
    pub fn new(year: u16, month: u8, day: u8) -> Option<Self> {
        let is_leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 => 28 + u8::from(is_leap),
            _ => return None,
        };
        let is_day = (1000..=2999).contains(&year) && (1..=days).contains(&day);
        is_day.then_some(Date { year, month, day })
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl Dates {
    /// Reads a text that is a date as a whole; `None` if it is none, or no day of the calendar. A time behind an ISO date is
    /// left aside. Two digits of a year are one between 1970 and 2069.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_end_matches([',', ';']);
        if text.is_empty() || text.len() > MAX_LEN {
            return None;
        }
        iso(text).or_else(|| figures(text)).or_else(|| with_month(text))
    }

    /// Whether a text has the form of a date, be it a day of the calendar or not: `2026-02-30`.
    pub fn has_form(text: &str) -> bool {
        let parts: Vec<&str> = text.trim().split(['-', '/', '.']).collect();
        let is_number =
            |part: &&str| (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        parts.len() == 3 && parts.iter().all(is_number)
    }

    /// The order that it shows, if there is but one.
    pub fn order(&self) -> Option<DateOrder> {
        match (self.day_first, self.month_first) {
            (Some(_), None) => Some(DateOrder::DayFirst),
            (None, Some(_)) => Some(DateOrder::MonthFirst),
            _ => None,
        }
    }

    /// Its day, with an order.
    pub fn value(&self, order: DateOrder) -> Option<Date> {
        match order {
            DateOrder::DayFirst => self.day_first,
            DateOrder::MonthFirst => self.month_first,
        }
    }

    /// Its day, if it has but one.
    pub fn only(&self) -> Option<Date> {
        match (self.day_first, self.month_first) {
            (Some(a), Some(b)) => (a == b).then_some(a),
            (one, None) | (None, one) => one,
        }
    }

    /// Its days: one, or two that differ.
    pub fn values(&self) -> impl Iterator<Item = Date> {
        let month_first = self.month_first.filter(|day| Some(*day) != self.day_first);
        self.day_first.into_iter().chain(month_first)
    }

    /// One day, whatever the order.
    fn certain(date: Date) -> Self {
        Dates { day_first: Some(date), month_first: Some(date) }
    }
}

/// Digits alone, and not more than `max` of them.
fn number(text: &str, max: usize) -> Option<u16> {
    let is_number = (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

fn year(text: &str) -> Option<u16> {
    let value = number(text, 4)?;
    match text.len() {
        4 => Some(value),
        2 => Some(if value < 70 { 2000 + value } else { 1900 + value }),
        _ => None,
    }
}

fn date(year: u16, month: u16, day: u16) -> Option<Date> {
    Date::new(year, u8::try_from(month).ok()?, u8::try_from(day).ok()?)
}

/// `2026-03-17`, `2026/03/17`, `2026.03.17`, `20260317`, and the first with a time behind.
fn iso(text: &str) -> Option<Dates> {
    let text = match text.split_once(['T', ' ']) {
        Some((date, time)) if is_time(time) => date,
        Some(_) => return None,
        None => text,
    };
    if text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit()) {
        let day = date(year(&text[..4])?, number(&text[4..6], 2)?, number(&text[6..], 2)?)?;
        // 17032026 is no year 1703.
        return (1900..2100).contains(&day.year).then_some(Dates::certain(day));
    }
    let separator = text.chars().find(|c| !c.is_ascii_digit())?;
    if !['-', '/', '.'].contains(&separator) {
        return None;
    }
    let mut parts = text.split(separator);
    let (y, m, d, none) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
    if y.len() != 4 || none.is_some() {
        return None;
    }
    date(year(y)?, number(m, 2)?, number(d, 2)?).map(Dates::certain)
}

/// `10:30`, `10:30:00Z`, `10:30:00.5+02:00`.
fn is_time(text: &str) -> bool {
    let is_of_time = |b: u8| b.is_ascii_digit() || b":.+-Z".contains(&b);
    text.len() >= 5
        && text.as_bytes()[2] == b':'
        && text.as_bytes()[..2].iter().all(u8::is_ascii_digit)
        && text.bytes().all(is_of_time)
}

/// `17.03.2026` (the day first, always), `17/03/2026` and `17-03-26` (either).
fn figures(text: &str) -> Option<Dates> {
    let text = text.trim_end_matches('.');
    let separator = text.chars().find(|c| !c.is_ascii_digit())?;
    if !['-', '/', '.'].contains(&separator) {
        return None;
    }
    let mut parts = text.split(separator).map(|part| part.trim_matches(' '));
    let (a, b, y, none) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
    if none.is_some() {
        return None;
    }
    let (a, b, y) = (number(a, 2)?, number(b, 2)?, year(y)?);
    let day_first = date(y, b, a);
    let month_first = if separator == '.' { None } else { date(y, a, b) };
    (day_first.is_some() || month_first.is_some()).then_some(Dates { day_first, month_first })
}

/// `17 March 2026`, `17. März 2026`, `March 17th, 2026`, `17-Mar-26`, `2026 March 17`, with or without a day of the week.
fn with_month(text: &str) -> Option<Dates> {
    let lower = text.to_lowercase();
    let mut words: Vec<&str> = lower
        .split(|c: char| c.is_whitespace() || [',', '-', '/', '\u{2011}'].contains(&c))
        .map(|word| word.trim_matches('.'))
        .filter(|word| !word.is_empty() && !["of", "de", "den", "le", "el", "the"].contains(word))
        .collect();
    if words.len() == 4 && WEEKDAYS.split(' ').any(|day| day == words[0]) {
        words.remove(0);
    }
    // `17.März 2026` and `17.Mar.2026` are one word.
    if words.len() < 3 {
        words = words.iter().flat_map(|word| word.split('.')).filter(|w| !w.is_empty()).collect();
    }
    let &[a, b, c] = &words[..] else { return None };
    let day = |word: &str| {
        let figures = word.trim_end_matches(|c: char| !c.is_ascii_digit());
        let ending = &word[figures.len()..];
        let is_ordinal = ["", "st", "nd", "rd", "th", "º", "er", "ª"].contains(&ending);
        is_ordinal.then(|| number(figures, 2)).flatten()
    };
    let (y, m, d) = match (month(a), month(b)) {
        (None, Some(m)) if a.len() == 4 && year(a).is_some() => (year(a)?, m, day(c)?),
        (None, Some(m)) => (year(c)?, m, day(a)?),
        (Some(m), None) => (year(c)?, m, day(b)?),
        _ => return None,
    };
    date(y, m, d).map(Dates::certain)
}

/// Names and abbreviations of months, in English, German, French, Spanish, Italian, Dutch, Portuguese and Polish.
const MONTHS: [&str; 12] = [
    "january jan januar jänner janvier janv enero ene gennaio gen januari janeiro stycznia styczeń",
    "february feb februar février fevrier févr febrero febbraio febbr februari fevereiro fev lutego luty",
    "march mar märz maerz mär mars marzo maart mrt março marco marca marzec",
    "april apr avril avr abril abr aprile kwietnia kwiecień",
    "may mai mayo maggio mag mei maio maja maj",
    "june jun juni juin junio giugno giu junho czerwca czerwiec",
    "july jul juli juillet juil julio luglio lug julho lipca lipiec",
    "august aug août aout agosto ago augustus sierpnia sierpień",
    "september sep sept septembre septiembre settembre set setembro września wrzesień",
    "october oct oktober okt octobre octubre ottobre ott outubro out października październik",
    "november nov novembre noviembre novembro listopada listopad",
    "december dec dezember dez décembre decembre déc diciembre dic dicembre dezembro grudnia grudzień",
];

const WEEKDAYS: &str = "mon tue wed thu fri sat sun monday tuesday wednesday thursday friday saturday sunday \
montag dienstag mittwoch donnerstag freitag samstag sonntag lundi mardi mercredi jeudi vendredi samedi dimanche \
lunes martes miércoles jueves viernes sábado domingo";

fn month(word: &str) -> Option<u16> {
    let at = MONTHS.iter().position(|names| names.split(' ').any(|name| name == word))?;
    u16::try_from(at + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, day_first: &str, month_first: &str) {
        let dates = Dates::parse(text).unwrap_or_else(|| panic!("{text}"));
        let shown = |date: Option<Date>| date.map_or(String::new(), |date| date.to_string());
        assert_eq!(
            (shown(dates.day_first), shown(dates.month_first)),
            (day_first.to_owned(), month_first.to_owned()),
            "{text}"
        );
    }

    #[test]
    fn dates_are_read_as_they_are_written() {
        let march = [
            "2026-03-17",
            "2026/3/17",
            "20260317",
            "2026-03-17T10:30:00Z",
            "2026-03-17 10:30",
            "17 March 2026",
            "17. März 2026",
            "17.März 2026",
            "March 17, 2026",
            "Mar. 17th, 2026",
            "17-Mar-26",
            "17 mars 2026",
            "Tuesday, 17 March 2026",
            "17 de marzo de 2026",
            "1970-01-01",
        ];
        for text in &march[..14] {
            check(text, "2026-03-17", "2026-03-17");
        }
        check(march[14], "1970-01-01", "1970-01-01");
        check("17.03.2026", "2026-03-17", "");
        check("17.3.26", "2026-03-17", "");
        check("17/03/2026", "2026-03-17", "");
        check("03/17/2026", "", "2026-03-17");
        check("29.02.2024", "2024-02-29", "");
        check("1 January 1999", "1999-01-01", "1999-01-01");
    }

    #[test]
    fn what_may_be_two_days_is_both() {
        check("03/04/2026", "2026-04-03", "2026-03-04");
        check("03-04-26", "2026-04-03", "2026-03-04");
        check("04/04/2026", "2026-04-04", "2026-04-04");
        // Dots are written where the day comes first.
        check("03.04.2026", "2026-04-03", "");
    }

    #[test]
    fn what_is_no_day_is_none() {
        let none = [
            "",
            "2026",
            "2026-02-30",
            "31.04.2026",
            "29.02.2026",
            "13/13/2026",
            "17 Foo 2026",
            "RE-2026/0417",
            "1.2.3.4",
            "2026-03",
            "March 2026",
            "17 March",
            "99999999",
            "10:30",
            "17.03.20266",
            "é/é/é",
        ];
        for text in none {
            assert_eq!(Dates::parse(text), None, "{text}");
        }
        assert!(Dates::has_form("2026-02-30") && !Dates::has_form("RE-2026/0417"));
    }
}
