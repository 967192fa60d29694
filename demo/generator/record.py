"""What a document says, before any layout arranges it, and the answer expected for it.

Spans an answer is read from are wrapped in `keep`, so that noise leaves their characters alone.
"""

from dataclasses import dataclass, field

from . import names, values
from .locales import LOCALES, WEIGHTS

KEEP, KEPT = "\x01", "\x02"

# Types whose documents share `Record`; receipts and bank lines have records of their own.
COMMERCIAL = ("invoice", "credit_note", "bill", "reminder", "purchase_order", "quote",
              "delivery_note", "payment_advice")
NEUTRAL = ("purchase_order", "quote", "delivery_note")


def keep(text):
    """Marks a span that noise must not touch."""
    return f"{KEEP}{text}{KEPT}"


@dataclass
class Party:
    """A business as a document shows it."""

    name: str
    address: list = field(default_factory=list)
    contact: list = field(default_factory=list)  # (label, value): phone, mail, tax number
    bank: list = field(default_factory=list)  # (label, value)


@dataclass
class Record:
    """The content of one commercial document; layouts print all of it but items and notes."""

    locale: object
    kind: str
    title: str
    issuer: Party
    recipient: Party
    roles: tuple  # label keys of issuer and recipient
    meta: list  # (label, value)
    columns: list
    rows: list
    totals: list  # (label, value), the total among them
    notes: list
    dateline: str = ""  # "City, date" when the date stands without a label
    prose: str = ""  # one sentence with number, date and total, if all three are there
    lead: str = ""  # a sentence for letters that need no number
    expected: dict = field(default_factory=dict)
    ours: str = ""


def answer(document_type, direction, party, number, date, currency, total):
    """The answer in its fixed key order."""
    return {
        "document_type": document_type, "direction": direction, "party": party, "number": number,
        "date": date, "currency": currency, "total": total,
    }


def pick_locale(rng):
    """One of the locales, by weight."""
    return rng.choices(LOCALES, WEIGHTS)[0]


def number_style(rng, locale, vocabulary):
    """A style of the locale; held-out documents often use one training never shows."""
    if vocabulary == "held" and rng.random() < 0.1:
        return "1'234.50"
    return rng.choice(locale.number)


def date_style(rng, locale):
    """One of the locale's ways to write dates."""
    return rng.choice(locale.date)


def letterhead(rng, name):
    """Another's name as documents print it: some letterheads are in capitals."""
    return name.upper() if rng.random() < 0.15 else name


def as_printed(rng, name, locale):
    """Our name as others write it: as it is, in capitals, or without its legal form."""
    kind = rng.random()
    if kind < 0.1:
        return name.upper()
    if kind < 0.2:
        for legal in sorted(locale.legal, key=len, reverse=True):
            if name.endswith(legal):
                return name[: -len(legal)].rstrip(" ,")
    return name


def make_party(rng, locale, name, vocabulary, rich):
    """A party with an address, and contact and bank lines if `rich`."""
    street = rng.choice(locale.streets).format(rng.randrange(1, 200))
    city = locale.address.format(
        city=rng.choice(locale.cities), postcode=values.fill(rng, locale.postcode))
    party = Party(name=name)
    party.address = [street, city] + ([locale.country] if rng.random() < 0.25 else [])
    if rng.random() < 0.12:
        who = names.person(rng, vocabulary)
        party.address.insert(0, f"{locale.label(rng, 'contact')} {who}")
    if rich:
        slug = "".join(c for c in name.lower().split(" ")[0] if c.isalnum()) or "office"
        mail = f"{rng.choice(('info', 'billing', 'office', 'hello', 'ar'))}@{slug}.{rng.choice(('com', 'eu', 'example', 'net'))}"
        options = [
            (locale.label(rng, "phone"), values.fill(rng, locale.phone)),
            (locale.label(rng, "email"), mail),
            (locale.label(rng, "vat_id"), values.fill(rng, locale.tax_id)),
            (locale.label(rng, "web"), f"www.{slug}.com"),
        ]
        party.contact = rng.sample(options, rng.randrange(0, 4))
        if rng.random() < 0.5:
            party.bank = [(locale.label(rng, "iban"), values.fill(rng, locale.iban))]
            if rng.random() < 0.5:
                party.bank.append(("BIC", values.fill(rng, "AAAAAA99")))
            if rng.random() < 0.4:
                bank = f"{names.word(rng, vocabulary)} {rng.choice(('Bank', 'Banca', 'Bank AG', 'Savings'))}"
                party.bank.insert(0, (locale.label(rng, "bank"), bank))
    return party


def _direction(kind, issued_by_us):
    """Where the money goes, seen from our business: "incoming" is money we get."""
    if kind in NEUTRAL:
        return "neutral"
    # The issuer of a credit note or a payment advice pays; the issuer of the rest is paid.
    issuer_gets = kind not in ("credit_note", "payment_advice")
    return "incoming" if issuer_gets == issued_by_us else "outgoing"


def _line_items(rng, locale, money, kind):
    """Columns, rows as text and the net sum in hundredths."""
    labels = [locale.label(rng, k) for k in ("description", "qty", "unit_price", "amount")]
    count = rng.choices((1, 2, 3, 4, 6, 12, 24), (8, 8, 6, 4, 3, 1, 0.4))[0]
    top = values.amount_cents(rng, 500, 2_000_000)
    words = locale.labels["items"]
    if kind == "bill":
        words = locale.labels["meter"] + locale.labels["period"]
    rows, net = [], 0
    for _ in range(count):
        quantity = rng.choice((1, 1, 1, 2, 3, 5, 10, 12, 40))
        price = max(10, int(top * rng.uniform(0.02, 1.0) / quantity))
        net += quantity * price
        rows.append([rng.choice(words), str(quantity), money.item(price),
                     money.item(quantity * price)])
    if kind == "delivery_note":
        return labels[:2], [row[:2] for row in rows], net
    shape = rng.random()
    if shape < 0.25:  # description and amount alone
        return [labels[0], labels[3]], [[r[0], r[3]] for r in rows], net
    if shape < 0.45:  # numbered positions
        rows = [[str(i + 1)] + r for i, r in enumerate(rows)]
        return [rng.choice(("#", "Pos", "No"))] + labels, rows, net
    return labels, rows, net


def _listed_invoices(rng, locale, money, dates, own_number):
    """Rows of an advice or a reminder: the invoices it is about, and their sum."""
    count = 1 if own_number else rng.choice((1, 2, 3, 4))
    rows, net = [], 0
    for _ in range(count):
        cents = values.amount_cents(rng, 1_000, 1_500_000)
        net += cents
        listed = keep(own_number) if own_number else values.identifier(rng, "invoice")
        rows.append([listed, values.date(values.day(rng), dates, locale), money.item(cents)])
    columns = [locale.label(rng, "invoice_no"), locale.label(rng, "date"),
               locale.label(rng, "amount")]
    return columns, rows, net


def _totals(rng, locale, money, kind, net):
    """The totals block as (label, value) and the document's total in hundredths."""
    if kind == "payment_advice":
        return [(locale.label(rng, "paid_total"), keep(money.total(net)))], net
    if kind == "reminder":
        fee = rng.choice((0, 0, 500, 1000, 1500, 4000, 735))
        rows = [(locale.label(rng, "overdue"), money.total(net))] if fee else []
        rows += [(locale.label(rng, "fee"), money.total(fee))] if fee else []
        return rows + [(locale.label(rng, "total"), keep(money.total(net + fee)))], net + fee
    rows, gross = [], net
    if rng.random() < 0.12:
        cut = net // 100 * rng.choice((5, 10, 20))
        gross -= cut
        rows.append((locale.label(rng, "discount"), money.total(-cut)))
    if rng.random() < 0.15 and kind != "bill":
        freight = rng.choice((495, 690, 950, 1500, 2500))
        gross += freight
        rows.append((locale.label(rng, "shipping"), money.total(freight)))
    if rng.random() < 0.75:
        rate = rng.choice((5, 7, 8.25, 10, 12, 19, 20, 21, 22, 23, 25))
        tax = int(gross * rate / 100 + 0.5)
        rows.insert(0, (locale.label(rng, "subtotal"), money.total(net)))
        shown = f" {rate}%" if rng.random() < 0.6 else f" ({rate} %)" if rng.random() < 0.4 else ""
        rows.append((locale.label(rng, "tax") + shown, money.total(tax)))
        gross += tax
    if kind == "bill" and rng.random() < 0.5:
        previous = values.amount_cents(rng, 1_000, 60_000)
        rows = [(locale.label(rng, "previous"), money.total(previous)),
                (locale.label(rng, "payments"), money.total(-previous))] + rows
    sign = -1 if kind == "credit_note" and rng.random() < 0.35 else 1
    key = "credit_total" if kind == "credit_note" else "total"
    return rows + [(locale.label(rng, key), keep(money.total(sign * gross)))], gross


def _meta(rng, locale, kind, title, number, day_text, dates):
    """The document's reference lines, its own number and date among the decoys."""
    rows = []
    if number:
        key = "invoice_no" if kind == "reminder" else f"{kind}_no"
        rows.append((locale.label(rng, key), keep(number)))
    if day_text:
        typed = rng.random() < 0.4 and kind != "reminder"
        label = locale.label(rng, "date")
        if typed:
            label = locale.label(rng, "typed_date").format(title.capitalize())
        rows.append((label, keep(day_text)))
    other = {"quote": ("valid_until",), "bill": ("due", "period", "meter"),
             "invoice": ("due", "delivery_date", "order_date"), "reminder": ("due",),
             "purchase_order": ("delivery_date",), "delivery_note": ("order_date",),
             "credit_note": (), "payment_advice": ()}[kind]
    for key in other:
        if rng.random() < 0.5:
            text = values.date(values.day(rng), dates, locale)
            if key == "period":
                text += f" - {values.date(values.day(rng), dates, locale)}"
            if key == "meter":
                text = f"{rng.randrange(1000, 99999)} kWh"
            rows.append((locale.label(rng, key), text))
    if kind == "credit_note" and rng.random() < 0.7:
        text = values.identifier(rng, "invoice")
        if rng.random() < 0.5:
            text += rng.choice((" ", f" {rng.choice(_OF_DATE)} ", " (", ", "))
            text += values.date(values.day(rng), dates, locale) + ")" * text.endswith("(")
        rows.append((locale.label(rng, "original"), text))
    for key, chance in (("customer_no", 0.4), ("order_no", 0.25), ("your_ref", 0.2)):
        if rng.random() < (0.9 if key == "customer_no" and kind == "bill" else chance):
            rows.append((locale.label(rng, key), values.identifier(rng, "customer")))
    if rng.random() < 0.15:
        rows.append((locale.label(rng, "contact"), names.person(rng, "train")))
    if rng.random() < 0.5:
        rng.shuffle(rows)
    return rows


# The word between a number and its date.
_OF_DATE = ("of", "du", "vom", "del", "van", "de", "z dnia", "av", "af", "dated", "d.d.", "den")
_ROLES = {"payment_advice": ("payer", "payee"), "purchase_order": ("buyer", "vendor")}


def _decoy_note(rng, locale, money, dates):
    """A sentence with a date, a number or an amount that is not the document's own."""
    label = lambda key: locale.label(rng, key)
    day = values.date(values.day(rng), dates, locale)
    return rng.choice((
        f"{label('due')} {day}.", f"{label('original')} {values.identifier(rng, 'invoice')} "
        f"{rng.choice(_OF_DATE)} {day}.", f"{label('order_no')} {values.identifier(rng, 'x')}, {day}",
        f"{label('discount')} 2%: {money.item(values.amount_cents(rng))}, {label('due')} {day}",
        f"{label('delivery_date')} {day}, {rng.choice(locale.cities)}",
        f"{label('payments')}: {money.item(values.amount_cents(rng))} ({day})"))


def commercial(rng, kind, vocabulary):
    """A record of one of the `COMMERCIAL` kinds with its expected answer."""
    locale = pick_locale(rng)
    dates = date_style(rng, locale)
    currency = rng.choice(locale.currencies)
    issued_by_us = rng.random() < (0.08 if kind == "bill" else 0.42)
    private = kind != "bill" and rng.random() < 0.1
    other = names.person(rng, vocabulary) if private else names.company(rng, locale, vocabulary)
    other = letterhead(rng, other)
    ours = names.company(rng, locale, vocabulary)
    number = values.identifier(rng, kind) if rng.random() < 0.93 else None
    day = values.day(rng) if rng.random() < 0.94 else None
    has_total = kind != "delivery_note" and rng.random() < 0.95
    has_currency = kind != "delivery_note" and rng.random() < 0.94
    money = values.Money(rng, currency, number_style(rng, locale, vocabulary), has_currency)
    if has_currency and not has_total:
        money.marks = "line"

    printed = as_printed(rng, ours, locale)
    first, second = (printed, other) if issued_by_us else (other, printed)
    issuer = make_party(rng, locale, keep(first), vocabulary, rich=True)
    recipient = make_party(rng, locale, keep(second), vocabulary, rich=rng.random() < 0.1)
    title = word = locale.label(rng, kind)
    day_text = values.date(day, dates, locale) if day else None

    if kind in ("payment_advice", "reminder"):
        own = number if kind == "reminder" else None
        columns, rows, net = _listed_invoices(rng, locale, money, dates, own)
        if kind == "reminder" and not own:
            rows = []
    else:
        columns, rows, net = _line_items(rng, locale, money, kind)
    totals, total = _totals(rng, locale, money, kind, net) if has_total else ([], None)
    if not has_total:
        rows = [] if rng.random() < 0.5 or kind != "delivery_note" else rows

    dateline = ""
    shown_day = day_text
    if day_text and rng.random() < 0.15:
        dateline, shown_day = f"{rng.choice(locale.cities)}, {keep(day_text)}", None
    shown_number = number
    if number and kind != "reminder" and rng.random() < 0.15:
        joint = rng.choice((" ", " ", " No. ", " #", " Nr. ", ": "))
        title, shown_number = f"{title}{joint}{keep(number)}", None
    meta = _meta(rng, locale, kind, word, shown_number, shown_day, dates)

    if money.marks == "line":
        text = locale.label(rng, "amounts_in").format(keep(currency))
        if totals and rng.random() < 0.5:
            label, value = totals[-1]
            totals[-1] = (f"{label} {rng.choice(('{}', '({})', 'in {}')).format(currency)}", value)
        else:
            meta.append(tuple(text.split(": ", 1)) if ": " in text else ("", text))
    prose = ""
    if number and day and has_total:
        prose = locale.label(rng, "prose").format(
            type=word, number=keep(number), date=keep(day_text),
            total=keep(money.total(total)))
        if money.marks == "line":
            prose += " " + locale.label(rng, "amounts_in").format(keep(currency)) + "."
    notes = rng.sample(locale.labels["terms"], rng.choice((0, 1, 1, 2, 3)))
    if rng.random() < 0.2:
        notes.insert(0, _decoy_note(rng, locale, money, dates))
    return Record(
        locale=locale, kind=kind, title=title, issuer=issuer, recipient=recipient,
        roles=_ROLES.get(kind, ("from", "bill_to")), meta=meta, columns=columns, rows=rows,
        totals=totals, notes=notes, dateline=dateline, prose=prose,
        lead=locale.label(rng, "prose_missing").format(type=word),
        ours=ours,
        expected=answer(
            kind, _direction(kind, issued_by_us), other, number, day.isoformat() if day else None,
            currency if has_currency else None, values.canonical(total) if has_total else None))
