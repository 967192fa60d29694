"""Receipts and bank lines: their records, and the layouts training shows."""

from dataclasses import dataclass, field

from . import names, values
from .layouts import left, pair, right, separator
from .record import (answer, as_printed, date_style, keep, letterhead, make_party, number_style,
                     pick_locale)


@dataclass
class Receipt:
    """A shop's or a restaurant's receipt; the customer's name is often not on it."""

    locale: object
    title: str
    issuer: object
    customer: str  # "" where no customer is named
    meta: list
    columns: list
    rows: list
    totals: list
    tender: list  # (label, value): what was handed over, after the total
    notes: list
    expected: dict = field(default_factory=dict)
    ours: str = ""


def receipt(rng, vocabulary):
    """A receipt with its expected answer. The money goes to the merchant."""
    locale = pick_locale(rng)
    ours = names.company(rng, locale, vocabulary)
    other = letterhead(rng, names.company(rng, locale, vocabulary))
    issued_by_us = rng.random() < 0.25
    merchant = as_printed(rng, ours, locale) if issued_by_us else other
    if issued_by_us:
        named = rng.random() < 0.6
        other = rng.choice((names.person(rng, vocabulary), other)) if named else None
        customer = keep(other) if named else ""
    else:
        customer = keep(as_printed(rng, ours, locale)) if rng.random() < 0.3 else ""

    currency = rng.choice(locale.currencies)
    has_currency = rng.random() < 0.9
    money = values.Money(rng, currency, number_style(rng, locale, vocabulary), has_currency)
    if money.marks == "line":
        money.marks = "totals"
    number = values.identifier(rng, "receipt") if rng.random() < 0.75 else None
    day = values.day(rng) if rng.random() < 0.95 else None
    rows, net = [], 0
    for _ in range(rng.choice((1, 1, 2, 3, 4, 6, 9))):
        cents, count = values.amount_cents(rng, 50, 9_000), rng.choice((1, 1, 1, 2, 3))
        net += cents * count
        times = f"{count} x " if rng.random() < 0.5 or count > 1 else ""
        rows.append([times + rng.choice(locale.labels["food"]), money.item(cents * count)])
    has_total = rng.random() < 0.96
    sums = [(locale.label(rng, "total"), keep(money.total(net)))] if has_total else []
    if rng.random() < 0.5:
        rate = rng.choice((5, 7, 10, 19, 20, 21, 25))
        tax = (f"{locale.label(rng, 'tax')} {rate}%", money.plain(net * rate // (100 + rate)))
        sums.insert(0 if rng.random() < 0.4 else len(sums), tax)
    if not has_total and has_currency:
        rows[-1][1] = money.marked(net)
    tender = []
    if has_total and rng.random() < 0.5:
        given = (net // 1000 + 1) * 1000
        tender = [(locale.label(rng, "cash"), money.plain(given)),
                  (locale.label(rng, "change"), money.plain(given - net))]
    elif has_total and rng.random() < 0.7:
        tender = [(locale.label(rng, "card"), money.plain(net))]

    meta = [(locale.label(rng, "receipt_no"), keep(number))] if number else []
    if day:
        text = keep(values.date(day, date_style(rng, locale), locale))
        clock = f" {rng.randrange(7, 23):02d}:{rng.randrange(60):02d}"
        text += clock if rng.random() < 0.6 else ""
        meta.append((locale.label(rng, "date") if rng.random() < 0.6 else "", text))
    if rng.random() < 0.4:
        meta.append((rng.choice(("Terminal", "POS", "Kasse", "Store", "Table")),
                     str(rng.randrange(1, 9999))))
    if rng.random() < 0.3:
        meta.append((locale.label(rng, "contact"), names.person(rng, vocabulary)))
    rng.shuffle(meta)
    issuer = make_party(rng, locale, keep(merchant), vocabulary, rich=True)
    return Receipt(
        locale=locale, title=locale.label(rng, "receipt"), issuer=issuer, customer=customer,
        meta=meta, columns=["", ""], rows=rows, totals=sums, tender=tender,
        notes=rng.sample(locale.labels["terms"], rng.choice((0, 1, 1))), ours=ours,
        expected=answer(
            "receipt", "incoming" if issued_by_us else "outgoing", other, number,
            day.isoformat() if day else None, currency if has_currency else None,
            values.canonical(net) if has_total else None))


def _customer_line(rec, rng):
    if not rec.customer:
        return []
    return [pair(rec.locale.label(rng, "bill_to"), rec.customer)]


def till(rec, rng):
    """A narrow slip, name centred."""
    size = rng.choice((26, 32, 40))
    head = [rec.issuer.name] + rec.issuer.address + [pair(a, b) for a, b in rec.issuer.contact]
    if rng.random() < 0.6:
        head = [x.center(size).rstrip() for x in head]
    body = [left(a, size - 12) + right(b, 12) for a, b in rec.rows]
    sums = [left(a, size - 14) + right(b, 14) for a, b in rec.totals + rec.tender]
    title = [rec.title] if rng.random() < 0.7 else []
    rule = [rng.choice("-=*") * size] if rng.random() < 0.6 else []
    meta = [pair(a, b) for a, b in rec.meta]
    if rng.random() < 0.5:
        return head + title + _customer_line(rec, rng) + meta + rule + body + rule + sums + rec.notes
    return head + title + rule + body + rule + sums + meta + _customer_line(rec, rng) + rec.notes


def slip(rec, rng):
    """Labelled lines without an item list."""
    sep = separator(rng)
    lines = [rec.title, rec.issuer.name] if rng.random() < 0.5 else [rec.issuer.name, rec.title]
    lines += [pair(a, b, sep) for a, b in rec.meta] + _customer_line(rec, rng)
    facts = rec.totals + rec.tender
    if not rec.totals:
        facts = [tuple(row) for row in rec.rows]
    return lines + [pair(a, b, sep) for a, b in facts] + rec.issuer.address + rec.notes


def mailed(rec, rng):
    """A receipt from an online shop."""
    lines = [f"{rec.title} - {rec.issuer.name}", "", rec.locale.label(rng, "greeting")]
    lines += _customer_line(rec, rng) + [pair(a, b) for a, b in rec.meta] + [""]
    lines += [f"{a}  {b}" for a, b in rec.rows] + [""]
    lines += [pair(a, b) for a, b in rec.totals + rec.tender] + rec.notes
    return lines + [rec.locale.label(rng, "closing"), rec.issuer.name] + rec.issuer.address


def receipt_markdown(rec, rng):
    """A converter's table of the items."""
    lines = [f"## {rec.title}" if rng.random() < 0.5 else rec.title, rec.issuer.name]
    lines += rec.issuer.address + _customer_line(rec, rng)
    lines += [f"**{a}:** {b}" if a else b for a, b in rec.meta]
    lines += ["| | |", "|---|---|"] + [f"| {a} | {b} |" for a, b in rec.rows]
    return lines + [f"| {a} | {b} |" for a, b in rec.totals + rec.tender] + rec.notes


def receipt_flat(rec, rng):
    """All of a slip on one line."""
    joint = rng.choice((" ", " | ", " / ", "  "))
    return [joint.join(" ".join(x.split()) for x in till(rec, rng) if x.strip())]


SEEN_RECEIPTS = (till, till, slip, mailed, receipt_markdown, receipt_flat)


@dataclass
class BankLine:
    """One booked transaction of our account."""

    locale: object
    text: str  # the kind of booking
    incoming: bool
    party: str  # "" for a transfer between our own accounts
    number: str
    booking: str
    valuta: str
    amount: str  # unsigned
    money: object
    cents: int
    purpose: str
    iban: str
    balance: str
    ours: str = ""
    expected: dict = field(default_factory=dict)

    @property
    def sign(self):
        return "+" if self.incoming else "-"


def bank_line(rng, vocabulary):
    """A bank line with its expected answer; its number is the bank's reference."""
    locale = pick_locale(rng)
    ours = names.company(rng, locale, vocabulary)
    own = rng.random() < 0.08
    incoming = rng.random() < 0.45
    other = names.person(rng, vocabulary) if rng.random() < 0.2 else names.company(
        rng, locale, vocabulary)
    if rng.random() < 0.25:
        other = other.upper()
    currency = rng.choice(locale.currencies)
    has_currency = rng.random() < 0.92
    money = values.Money(rng, currency, number_style(rng, locale, vocabulary), has_currency)
    money.marks = "all" if has_currency else "none"
    cents = values.amount_cents(rng)
    day = values.day(rng)
    # "03/04" of a bare English line is March or April by its currency alone.
    english_bare = locale.code.startswith("en") and not has_currency
    style = "iso" if english_bare else date_style(rng, locale)
    number = values.identifier(rng, "bank_transaction") if rng.random() < 0.75 else None
    purpose = " ".join(rng.sample((
        f"{locale.label(rng, 'invoice_no')} {values.identifier(rng, 'invoice')}",
        f"{locale.label(rng, 'customer_no')} {values.identifier(rng, 'customer')}",
        rng.choice(locale.labels["items"]), names.person(rng, vocabulary)), rng.choice((0, 1, 2))))
    key = "own_transfer" if own else "transfer_in" if incoming else "transfer_out"
    direction = "neutral" if own else "incoming" if incoming else "outgoing"
    return BankLine(
        locale=locale, text=locale.label(rng, key), incoming=incoming,
        party="" if own else keep(other), number=keep(number) if number else "",
        booking=keep(values.date(day, style, locale)),
        valuta=values.date(values.day(rng) if rng.random() < 0.3 else day, style, locale),
        amount=keep(money.marked(cents)), money=money, cents=cents, purpose=purpose,
        iban=values.fill(rng, locale.iban), balance=money.plain(values.amount_cents(rng)),
        ours=ours,
        expected=answer(
            "bank_transaction", direction, None if own else other, number, day.isoformat(),
            currency if has_currency else None, values.canonical(cents)))


def signed(line, rng):
    """The amount with its sign before or after, or with the bank's word for the direction."""
    kind = rng.randrange(4)
    if kind == 0:
        word = line.locale.label(rng, "credit" if line.incoming else "debit")
        return f"{line.amount} {word}"
    if kind == 1:
        return f"{line.amount}{line.sign}"
    return f"{line.sign if not line.incoming or kind == 2 else ''}{line.amount}"


def _account(line, rng):
    """Sometimes the heading names us, the account's holder."""
    if rng.random() < 0.5:
        return []
    return [f"{line.ours} {line.iban}" if rng.random() < 0.5 else line.ours]


def detail(line, rng):
    """The transaction's details as labelled lines."""
    sep, label = separator(rng), lambda k: line.locale.label(rng, k)
    facts = [(label("booking"), line.booking), (label("amount"), signed(line, rng))]
    party = "payer" if line.incoming else "payee"
    facts += [(label(party), line.party)] if line.party else []
    facts += [(label("reference"), line.number)] if line.number else []
    facts += [(label("payref"), line.purpose)] if line.purpose else []
    facts += [(label("valuta"), line.valuta)] if rng.random() < 0.5 else []
    facts += [(label("balance"), line.balance)] if rng.random() < 0.4 else []
    facts += [(label("iban"), line.iban)] if rng.random() < 0.4 else []
    if rng.random() < 0.6:
        rng.shuffle(facts)
    return _account(line, rng) + [line.text] + [pair(a, b, sep) for a, b in facts]


def export(line, rng):
    """A header row and one row, delimited."""
    label, mark = lambda k: line.locale.label(rng, k), rng.choice((";", ",", "\t", " | "))
    quote = '"' if mark == "," else rng.choice(("", "", '"'))
    columns = [(label("booking"), line.booking), (label("valuta"), line.valuta),
               (label("payref"), f"{line.text} {line.purpose}".strip()),
               (label("payer" if line.incoming else "payee"), line.party),
               (label("reference"), line.number)]
    if rng.random() < 0.4:
        both = [(label("debit"), ""), (label("credit"), "")]
        side = int(line.incoming)
        both[side] = (both[side][0], line.amount)
        columns += both
    else:
        columns.append((label("amount"), f"{'' if line.incoming else '-'}{line.amount}"))
    columns += [(label("balance"), line.balance)] * (rng.random() < 0.5)
    if rng.random() < 0.3:
        rng.shuffle(columns)
    return _account(line, rng) + [mark.join(f"{quote}{c[i]}{quote}" for c in columns) for i in (0, 1)]


def statement(line, rng):
    """A statement's row between an opening and a closing balance."""
    label = lambda k: line.locale.label(rng, k)
    words = " ".join(x for x in (line.text, line.party, line.purpose) if x)
    if line.number:
        words += f" {label('reference')} {line.number}"
    gap = rng.choice((" ", "  ", "    "))
    row = gap.join((line.booking,) + (line.valuta,) * (rng.random() < 0.5) + (
        words, signed(line, rng)))
    lines = _account(line, rng)
    if rng.random() < 0.5:
        lines.append(gap.join((label("booking"), label("payref"), label("amount"))))
    lines += [f"{label('previous')}{gap}{line.balance}"] * (rng.random() < 0.5)
    lines.append(row)
    return lines + [f"{label('balance')}{gap}{line.balance}"] * (rng.random() < 0.5)


def columns(line, rng):
    """A statement in aligned columns: money out and in have one each, long texts go on below."""
    label = lambda k: line.locale.label(rng, k)
    size = rng.choice((8, 10, 12, 14))
    first, wide = rng.choice((10, 12, 14)), rng.choice((30, 38, 46, 54))
    words = rng.choice((f"{line.text} {line.party}", f"{line.party} {line.text}", line.party))
    words = words.strip() or line.text
    more = [line.purpose] * bool(line.purpose)
    if line.number:
        more.append(f"{label('reference')} {line.number}")
    amount = keep(line.money.plain(line.cents)) if rng.random() < 0.7 else line.amount
    shown = line.money.marks == "none" or amount == line.amount
    cells = [amount, ""] if not line.incoming else ["", amount]
    heads = [label("debit"), label("credit")]
    if rng.random() < 0.3:
        cells, heads = cells[::-1], heads[::-1]
    cells, heads = cells + [line.balance], heads + [label("balance")]
    if rng.random() < 0.25:
        cells, heads = cells[:2], heads[:2]
    align = right if rng.random() < 0.7 else left
    dates = [line.booking] + [line.valuta] * (rng.random() < 0.25)
    date_heads = [label("booking"), label("valuta")][: len(dates)]
    row = "".join(left(d, first) + " " for d in dates) + left(words, wide)
    head = "".join(left(d, first) + " " for d in date_heads) + left(label("payref"), wide)
    row += "".join(" " + align(c, size) for c in cells)
    head += "".join(" " + align(c, size) for c in heads)
    inset = " " * rng.choice((0, first + 1))
    below = [inset + " ".join(more)] if rng.random() < 0.5 else [inset + m for m in more]
    before = [f"{label('previous')} {line.balance}"] * (rng.random() < 0.3)
    note = [] if shown else [label("amounts_in").format(keep(line.money.currency))]
    if rng.random() < 0.5:
        return _account(line, rng) + note + before + [head.rstrip(), row.rstrip()] + below
    return _account(line, rng) + before + [head.rstrip(), row.rstrip()] + below + note


def stacked(line, rng):
    """A mobile app's list: one fact a line, no labels but the reference's."""
    facts = [line.party or line.text, signed(line, rng), line.booking]
    facts += [line.text] * bool(line.party) + [line.purpose] * bool(line.purpose)
    if line.number:
        facts.append(f"{line.locale.label(rng, 'reference')} {line.number}")
    if rng.random() < 0.5:
        rng.shuffle(facts)
    return _account(line, rng) + facts


def notification(line, rng):
    """A sentence, as a bank's message says it."""
    if not (line.party and line.number):
        return detail(line, rng)
    key = "notify_in" if line.incoming else "notify_out"
    sentence = line.locale.label(rng, key).format(
        total=line.amount, party=line.party, date=line.booking, number=line.number)
    lines = [line.text] * (rng.random() < 0.4) + [sentence]
    return lines + [f"{line.locale.label(rng, 'balance')}: {line.balance}"] * (rng.random() < 0.5)


SEEN_BANK = (detail, detail, export, columns, columns, statement, stacked, notification)
