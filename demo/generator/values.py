"""Values as documents print them: amounts, dates, identifiers. All randomness comes from `rng`."""

import datetime
import math

SYMBOLS = {
    "EUR": ("€",), "USD": ("$", "US$"), "GBP": ("£",), "CAD": ("CA$", "C$"), "CHF": ("CHF", "SFr."),
    "PLN": ("zł",), "CZK": ("Kč",), "SEK": ("SEK", "kr"), "DKK": ("DKK", "kr."), "NOK": ("NOK",),
    "BRL": ("R$",), "MXN": ("MX$",),
}
# How each style writes the decimal point and groups thousands.
_NUMBER = {
    "1,234.50": (",", "."), "1.234,50": (".", ","), "1 234,50": (" ", ","), "1234.50": ("", "."),
    "1234,50": ("", ","), "1 234.50": (" ", "."), "1'234.50": ("'", "."),
}


def number(cents, style):
    """An amount in hundredths, grouped and pointed as `style` shows."""
    group, point = _NUMBER[style]
    whole, part = divmod(abs(cents), 100)
    return f"{whole:,}".replace(",", group) + f"{point}{part:02d}"


def canonical(cents):
    """The expected answer's form of an amount: no sign, no grouping, a point, two decimals."""
    return f"{abs(cents) // 100}.{abs(cents) % 100:02d}"


class Money:
    """How one document prints amounts: number style, and where the currency stands, if anywhere."""

    def __init__(self, rng, currency, style, shown=True):
        self.currency, self.style = currency, style
        symbol = rng.choice(SYMBOLS[currency])
        code = rng.random() < 0.4
        mark = currency if code else symbol
        before = rng.random() < (0.85 if style in ("1,234.50", "1234.50") else 0.3)
        gap = " " if code or not before or len(symbol) > 2 or rng.random() < 0.35 else ""
        self._before = mark + gap if before else ""
        self._after = "" if before else gap + mark
        # Where the mark stands: on every amount, on totals only, or nowhere but a line of its own.
        self.marks = rng.choices(("all", "totals", "line"), (5, 3, 2))[0] if shown else "none"

    def plain(self, cents):
        """The bare number, with a leading minus if negative."""
        return ("-" if cents < 0 else "") + number(cents, self.style)

    def marked(self, cents):
        """The number with the currency, unless this document never shows one."""
        if self.marks == "none":
            return self.plain(cents)
        return ("-" if cents < 0 else "") + self._before + number(cents, self.style) + self._after

    def item(self, cents):
        """As an item row prints it."""
        return self.marked(cents) if self.marks == "all" else self.plain(cents)

    def total(self, cents):
        """As the totals block prints it."""
        return self.marked(cents) if self.marks in ("all", "totals") else self.plain(cents)


def amount_cents(rng, low=300, high=3_000_000):
    """Log-uniform in hundredths; a third are whole or end in a round part."""
    cents = int(math.exp(rng.uniform(math.log(low), math.log(high))))
    kind = rng.random()
    if kind < 0.2:
        cents = max(100, cents // 100 * 100)
    elif kind < 0.3:
        cents = cents // 10 * 10 + (9 if rng.random() < 0.5 else 5)
    return cents


def day(rng):
    """Any day of 2012 to 2031, the last years more often."""
    first = datetime.date(2012 if rng.random() < 0.3 else 2021, 1, 1)
    last = datetime.date(2031, 12, 31)
    return first + datetime.timedelta(rng.randrange((last - first).days + 1))


def _ordinal(n):
    return f"{n}" + ("th" if 10 < n < 14 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th"))


def date(d, style, locale):
    """A date in a style of the locale; upper-case letters of a style drop the zero padding."""
    month = locale.labels["months"][d.month - 1]
    short = locale.labels["short"][d.month - 1]
    if style in ("iso", "yymmdd"):
        return d.strftime("%Y-%m-%d" if style == "iso" else "%y%m%d")
    words = {
        "month d, y": f"{month} {d.day}, {d.year}", "mon d, y": f"{short} {d.day}, {d.year}",
        "d month y": f"{d.day} {month} {d.year}", "d. month y": f"{d.day}. {month} {d.year}",
        "dth month y": f"{_ordinal(d.day)} {month} {d.year}", "d mon y": f"{d.day} {short} {d.year}",
        "d-mon-y": f"{d.day:02d}-{short}-{d.year}", "d month y r.": f"{d.day} {month} {d.year} r.",
        "d de month de y": f"{d.day} de {month} de {d.year}", "d/m y": f"{d.day}/{d.month} {d.year}",
    }
    if style in words:
        return words[style]
    separator = next(c for c in style if c in "./-")
    parts = {
        "d": f"{d.day:02d}", "D": str(d.day), "m": f"{d.month:02d}", "M": str(d.month),
        "y": str(d.year), "yy": f"{d.year % 100:02d}",
    }
    return separator.join(parts[p] for p in style.split(separator))


def fill(rng, pattern):
    """`9` becomes a digit and `A` a letter; anything else stays."""
    return "".join(
        rng.choice("0123456789") if c == "9"
        else rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") if c == "A" else c
        for c in pattern
    )


_PREFIXES = {
    "invoice": ("INV", "RE", "R", "F", "FA", "FV", "FT", "VF", "Inv", "SI", "I", "FAC", "RG"),
    "credit_note": ("CN", "GS", "AV", "NC", "CR", "CM", "KF", "G"),
    "quote": ("Q", "AN", "DEV", "OF", "QU", "P", "EST", "PR"),
    "purchase_order": ("PO", "BE", "BC", "OC", "ORD", "B", "PED", "ZAM"),
    "delivery_note": ("DN", "LS", "BL", "ALB", "DDT", "WZ", "D"),
    "receipt": ("R", "T", "K", "B", "RCP", "S"),
    "bill": ("B", "E", "EN", "INV", "F", ""),
    "payment_advice": ("PA", "AV", "PAY", "ZA", "P", "RA", "TX"),
    "reminder": ("INV", "RE", "F", "FA", "FT"),
    "bank_transaction": ("TX", "FT", "REF", "TRN", "BK", "E2E", "S"),
}


def identifier(rng, kind, year=None):
    """A document number: prefix, year, digits and separators in one of many patterns."""
    prefix = rng.choice(_PREFIXES.get(kind, ("C", "K", "A", "CUST", "")))
    year = year or rng.randrange(2015, 2030)
    sep = rng.choice(("-", "-", "/", "", " ", ".", "_")) if prefix else ""
    year_part = rng.choice((str(year), f"{year % 100:02d}"))
    digits = fill(rng, "9" * rng.choice((3, 4, 4, 5, 5, 6)))
    pattern = rng.randrange(11)
    if pattern == 0:
        return fill(rng, "9" * rng.choice((3, 4, 5, 6, 7, 8, 10)))
    if pattern == 1:
        return f"{year}{rng.choice('-/.')}{digits}"
    if pattern == 2:
        return f"{digits}{rng.choice('/-')}{year_part}"
    if pattern == 3:
        return f"{prefix}{digits}"
    if pattern == 4:
        return f"{prefix}{sep}{year_part}{rng.choice('-/')}{digits}"
    if pattern == 5:
        return f"{prefix}{sep}{year_part}{digits}"
    if pattern == 6:
        return f"{prefix}{sep}{digits}{rng.choice('-/')}{fill(rng, rng.choice(('A', '99', 'AA')))}"
    if pattern == 7:
        return fill(rng, rng.choice(("AA9999", "A99999", "9A9A9A9", "AAA-9999", "99AA-99999")))
    if pattern == 8 and prefix:
        return f"{prefix}/{digits}/{rng.randrange(1, 13):02d}/{year}"
    if pattern == 9:
        return f"{rng.randrange(1, 13):02d}/{digits}/{year}"
    return f"{prefix}{sep}{digits}"
