"""Layouts that training shows: each arranges a `Record` into lines of text."""

import textwrap

from .record import KEEP, KEPT


def width(text):
    """Printed width: the marks of `keep` take none."""
    return len(text) - text.count(KEEP) - text.count(KEPT)


def left(text, size):
    return text + " " * max(0, size - width(text))


def right(text, size):
    return " " * max(0, size - width(text)) + text


def pair(label, value, separator=": "):
    """`label: value`, or the value alone where there is no label."""
    return f"{label.rstrip(':')}{separator}{value}" if label else value


def separator(rng):
    return rng.choice((": ", ": ", ": ", " : ", ":  ", "  ", " ", ":\t", "\t", " - ", ":"))


def block(party, rng, rich=True):
    """Name, address and, if `rich`, contact lines, one a line."""
    lines = [party.name] + party.address
    if rich:
        lines += [pair(a, b) for a, b in party.contact]
    return lines


def bank_lines(party):
    return [pair(a, b) for a, b in party.bank]


def joined_footer(rec, rng):
    """One or two imprint lines with what the issuer's bank and contact lines say."""
    parts = [rec.issuer.name] * (rng.random() < 0.4) + bank_lines(rec.issuer)
    if rng.random() < 0.4:
        parts += [pair(a, b) for a, b in rec.issuer.contact]
    return [rng.choice((" | ", " - ", ", ", "   ", " · ")).join(parts)] if parts else []


def table(rec, rng, gap=None):
    """Items in aligned columns, numbers to the right."""
    if not rec.rows:
        return []
    gap = gap or " " * rng.choice((1, 2, 2, 3))
    rows = [rec.columns] + rec.rows
    sizes = [max(width(r[i]) for r in rows) for i in range(len(rec.columns))]
    lines = [
        gap.join(
            (left if i == 0 else right)(cell, sizes[i]) for i, cell in enumerate(row)).rstrip()
        for row in rows
    ]
    if rng.random() < 0.4:
        lines.insert(1, rng.choice("-=_") * max(width(x) for x in lines))
    return lines


def totals(rec, rng, size=None, sep=None):
    """Totals one a line: to the right at `size`, or after a separator."""
    if size is None:
        sep = sep or separator(rng)
        return [pair(a, b, sep) for a, b in rec.totals]
    return [right(f"{a}  {right(b, 12)}", size) for a, b in rec.totals]


def letter(rec, rng):
    """Letterhead, recipient, title, reference lines, items, totals, notes."""
    sep = separator(rng)
    lines = block(rec.issuer, rng) + [""]
    lines += block(rec.recipient, rng) + [""]
    lines += [rec.dateline, ""] if rec.dateline else []
    head = [rec.title] + [pair(a, b, sep) for a, b in rec.meta]
    if rng.random() < 0.3:
        head = head[1:] + head[:1]
    lines += head + [""]
    if rng.random() < 0.3:
        lines += [rec.locale.label(rng, "greeting"), rec.lead, ""]
    lines += table(rec, rng) + [""] + totals(rec, rng, rng.choice((None, 50, 60))) + [""]
    return lines + rec.notes + joined_footer(rec, rng)


def meta_at_right(rec, rng):
    """Recipient at the left and the reference lines beside it at the right."""
    column = rng.choice((36, 42, 48))
    a = [rec.locale.label(rng, rec.roles[1])] * (rng.random() < 0.5) + block(rec.recipient, rng)
    b = [rec.title] + [pair(x, y) for x, y in rec.meta] + [rec.dateline] * bool(rec.dateline)
    if rng.random() < 0.4:
        b = [left(x.rstrip(":"), 18) + " " + y for x, y in rec.meta]
        b = [rec.title] + b + [rec.dateline] * bool(rec.dateline)
    count = max(len(a), len(b))
    a, b = a + [""] * (count - len(a)), b + [""] * (count - len(b))
    lines = block(rec.issuer, rng) + [""] + [left(x, column) + y for x, y in zip(a, b)] + [""]
    lines += table(rec, rng) + totals(rec, rng, rng.choice((56, 64, 72)))
    return lines + [""] + rec.notes + joined_footer(rec, rng)


def key_values(rec, rng):
    """Every fact as a labelled line, in any order of groups."""
    sep = separator(rng)
    role = [rec.locale.label(rng, r) for r in rec.roles]
    groups = [
        [pair(role[0], rec.issuer.name, sep)] + [", ".join(rec.issuer.address)] * (
            rng.random() < 0.5) + [pair(a, b, sep) for a, b in rec.issuer.contact],
        [pair(role[1], rec.recipient.name, sep)] + rec.recipient.address * (rng.random() < 0.5),
        [pair(a, b, sep) for a, b in rec.meta] + [rec.dateline] * bool(rec.dateline),
        [pair(a, b, sep) for a, b in rec.totals],
        bank_lines(rec.issuer),
    ]
    if rng.random() < 0.5:
        rng.shuffle(groups)
    if rng.random() < 0.4:
        groups.insert(rng.randrange(len(groups)), table(rec, rng))
    lines = [rec.title]
    for group in groups:
        lines += group + [""] * (rng.random() < 0.4)
    return lines + rec.notes


def markdown(rec, rng):
    """What document converters write: headings, bold labels, pipe tables."""
    bold = rng.random() < 0.6
    mark = (lambda s: f"**{s}**") if bold else (lambda s: s)
    role = [rec.locale.label(rng, r) for r in rec.roles]
    lines = [f"{'#' * rng.choice((1, 2))} {rec.title}", ""]
    if rng.random() < 0.5:
        lines = [rec.issuer.name] + rec.issuer.address + [""] + lines
    else:
        lines += [f"{mark(role[0])}: {rec.issuer.name}"] + rec.issuer.address + [""]
    meta = [f"{mark(a + ':') if a else ''} {b}".strip() for a, b in rec.meta]
    if rng.random() < 0.4 and meta:
        meta = ["| | |", "|---|---|"] + [f"| {mark(a)} | {b} |" for a, b in rec.meta]
    lines += meta + [rec.dateline] * bool(rec.dateline) + [""]
    lines += [f"{'### ' * (rng.random() < 0.5)}{role[1]}", rec.recipient.name]
    lines += rec.recipient.address + [""]
    if rec.rows:
        lines += ["| " + " | ".join(rec.columns) + " |", "|" + " --- |" * len(rec.columns)]
        lines += ["| " + " | ".join(row) + " |" for row in rec.rows]
    if rng.random() < 0.5:
        lines += [f"| {'| ' * max(0, len(rec.columns) - 2)}{mark(a)} | {b} |" for a, b in rec.totals]
    else:
        lines += [""] + [f"{mark(a + ':')} {b}" for a, b in rec.totals]
    return lines + [""] + rec.notes + bank_lines(rec.issuer)


def header_row(rec, rng):
    """A row of labels above a row of their values."""
    gap = rng.choice(("  ", "    ", " | ", "\t"))
    meta = [(a or "*", b) for a, b in rec.meta]
    lines = block(rec.issuer, rng) + [""] * (rng.random() < 0.6) + [rec.title]
    lines += [rec.locale.label(rng, rec.roles[1])] * (rng.random() < 0.6)
    lines += block(rec.recipient, rng) + [rec.dateline] * bool(rec.dateline)
    step = rng.choice((2, 3, 4, 8))
    for start in range(0, len(meta), step):
        part = meta[start:start + step]
        if gap == "  " or gap == "    ":
            sizes = [max(width(a), width(b)) for a, b in part]
            lines += [gap.join(left(c[k], s) for c, s in zip(part, sizes)).rstrip() for k in (0, 1)]
        else:
            lines += [gap.join(c[k] for c in part) for k in (0, 1)]
    lines += table(rec, rng)
    if rec.totals and rng.random() < 0.5:
        lines += [gap.join(c[k] for c in rec.totals) for k in (0, 1)]
    else:
        lines += totals(rec, rng)
    return lines + rec.notes + joined_footer(rec, rng)


def label_column(rec, rng):
    """Reading order of some PDF extractors: all labels, then all values."""
    ends = rng.choice((":", ""))
    meta = [(a or "*", b) for a, b in rec.meta]
    facts = [[a.rstrip(":") + ends for a, _ in meta], [b for _, b in meta]]
    sums = [[a + ends for a, _ in rec.totals], [b for _, b in rec.totals]]
    lines = [rec.title] * (rng.random() < 0.5)
    parties = block(rec.issuer, rng) + [""] * (rng.random() < 0.5)
    parties += [rec.locale.label(rng, rec.roles[1])] * (rng.random() < 0.7)
    parties += block(rec.recipient, rng)
    lines += parties + ([] if lines else [rec.title]) + [rec.dateline] * bool(rec.dateline)
    lines += facts[0] + facts[1]
    if rng.random() < 0.4 and rec.rows:  # the item table column by column
        for i, column in enumerate(rec.columns):
            lines += [column] + [row[i] for row in rec.rows]
    else:
        lines += table(rec, rng)
    return lines + sums[0] + sums[1] + rec.notes + joined_footer(rec, rng)


def email(rec, rng):
    """A message whose body says it in a sentence, or lists it."""
    locale = rec.locale
    head = []
    slug = "".join(c for c in rec.issuer.name.lower() if c.isascii() and c.isalnum())[:14] or "mail"
    if rng.random() < 0.7:
        to = rec.recipient.name
        head = [rng.choice(("From: ", "Von: ", "De: ")) + f"{rec.issuer.name} <billing@{slug}.com>",
                rng.choice(("To: ", "An: ", "À: ")) + to,
                rng.choice(("Subject: ", "Betreff: ", "Re: ")) + rec.title, ""]
    lines = head or [rec.title, ""]
    if rng.random() < 0.6 or not head:
        lines += [f"{locale.label(rng, 'greeting').rstrip(',')} {rec.recipient.name},"]
    else:
        lines += [locale.label(rng, "greeting")]
    if rec.prose and rng.random() < 0.7:
        lines += ["", rec.prose] + [pair(a, b) for a, b in rec.meta if KEEP not in b]
    else:
        bullet = rng.choice(("", "- ", "* ", "  "))
        lines += ["", rec.lead] + [bullet + pair(a, b) for a, b in rec.meta + rec.totals]
        lines += [rec.dateline] * bool(rec.dateline)
    lines += rec.notes[:1] + ["", locale.label(rng, "closing"), rec.issuer.name]
    return lines + rec.issuer.address * (rng.random() < 0.5) + bank_lines(rec.issuer)


def from_to(rec, rng):
    """Both parties under headings, side by side or one below the other."""
    role = [rec.locale.label(rng, r) for r in rec.roles]
    a, b = block(rec.issuer, rng), block(rec.recipient, rng)
    lines = [rec.title] + [pair(x, y, separator(rng)) for x, y in rec.meta]
    lines += [rec.dateline] * bool(rec.dateline) + [""]
    if rng.random() < 0.5:
        size = max(width(x) for x in a + role) + rng.choice((2, 4, 12))
        a, b = [role[0]] + a, [role[1]] + b
        count = max(len(a), len(b))
        a, b = a + [""] * (count - len(a)), b + [""] * (count - len(b))
        if rng.random() < 0.3:
            a, b = b, a
            size = max(width(x) for x in a) + 3
        lines += [(left(x, size) + y).rstrip() for x, y in zip(a, b)]
    else:
        ends = rng.choice((":", ""))
        lines += [role[0] + ends] + a + [""] + [role[1] + ends] + b
    lines += [""] + table(rec, rng) + totals(rec, rng, rng.choice((None, 48)))
    return lines + [""] + rec.notes + bank_lines(rec.issuer)


def amount_first(rec, rng):
    """The amount on top, as online services print it."""
    lines = [rec.issuer.name, rec.title]
    if rec.totals:
        lines += [rec.totals[-1][1], rec.totals[-1][0]] if rng.random() < 0.5 else [
            pair(*rec.totals[-1])]
    lines += [rec.dateline] * bool(rec.dateline)
    lines += [pair(a, b, separator(rng)) for a, b in rec.meta] + [""]
    lines += [rec.locale.label(rng, rec.roles[1])] + block(rec.recipient, rng)
    lines += [""] + [f"{' '.join(row)}" for row in rec.rows] + totals(rec, rng)
    return lines + rec.issuer.address + [pair(a, b) for a, b in rec.issuer.contact] + rec.notes


def dotted(rec, rng):
    """A form with leaders between label and value."""
    leader = rng.choice(("....", "........", " ...... ", "____", " . . . "))
    role = [rec.locale.label(rng, r) for r in rec.roles]
    lines = [rec.title, ""]
    lines += [f"{role[0]}{leader}{rec.issuer.name}"] + rec.issuer.address * (rng.random() < 0.5)
    lines += [f"{role[1]}{leader}{rec.recipient.name}"]
    lines += [f"{a}{leader}{b}" for a, b in rec.meta] + [rec.dateline] * bool(rec.dateline)
    lines += table(rec, rng) + [f"{a}{leader}{b}" for a, b in rec.totals]
    return lines + rec.notes + joined_footer(rec, rng)


def narrow(rec, rng):
    """A scan of a narrow page: everything wrapped."""
    size = rng.choice((28, 34, 40))
    lines = []
    for line in letter(rec, rng):
        clean = " ".join(line.split(" "))
        if KEEP in line or width(line) <= size:
            lines.append(" ".join(clean.split()))
        else:
            lines += textwrap.wrap(clean, size) or [""]
    return lines


def flat(rec, rng):
    """No line structure left at all."""
    joint = rng.choice((" ", " ", " | ", "  ", " / ", "; "))
    lines = rng.choice((letter, key_values, from_to))(rec, rng)
    parts = [" ".join(x.split()) for x in lines if x.strip()]
    return [joint.join(parts)]


def delimited(rec, rng):
    """`key;value` rows, as an export writes them."""
    mark = rng.choice((";", ",", "\t", "|", " = ", "="))
    quote = '"' if mark == "," or rng.random() < 0.2 else ""
    role = [rec.locale.label(rng, r) for r in rec.roles]
    facts = [(rec.title, ""), (role[0], rec.issuer.name), (role[1], rec.recipient.name)]
    facts += [(a or "info", b) for a, b in rec.meta] + rec.totals
    facts += [("", rec.dateline)] * bool(rec.dateline)
    facts += rec.issuer.contact + rec.issuer.bank
    if rng.random() < 0.4:
        facts = facts[:1] + rng.sample(facts[1:], len(facts) - 1)
    return [f"{quote}{a}{quote}{mark}{quote}{b}{quote}" for a, b in facts]


def shuffled(rec, rng):
    """Blocks in any order, as a text layer can come out; each party keeps its heading."""
    role = [rec.locale.label(rng, r) for r in rec.roles]
    groups = [
        [role[0]] + block(rec.issuer, rng), [role[1]] + block(rec.recipient, rng),
        [rec.title], [pair(a, b, separator(rng)) for a, b in rec.meta], totals(rec, rng),
        table(rec, rng), rec.notes, [rec.dateline] * bool(rec.dateline), bank_lines(rec.issuer),
    ]
    rng.shuffle(groups)
    return [line for group in groups for line in group]


def window(rec, rng):
    """A small sender line above the recipient, for an envelope with a window."""
    sender = " - ".join([rec.issuer.name] + rec.issuer.address)
    lines = [rec.issuer.name, ""] * (rng.random() < 0.3) + [sender] + block(rec.recipient, rng, False)
    info = [right(pair(a, b), rng.choice((50, 66))) for a, b in rec.meta]
    lines += [""] + info + [right(rec.dateline, 66)] * bool(rec.dateline) + ["", rec.title, ""]
    if rec.prose and rng.random() < 0.4:
        lines += [rec.locale.label(rng, "greeting"), rec.prose]
    lines += table(rec, rng) + totals(rec, rng, 66) + [""] + rec.notes
    if rng.random() < 0.4:
        lines += ["", rec.locale.label(rng, "closing"), rec.issuer.name]
    return lines + joined_footer(rec, rng)


def page_foot(rec, rng):
    """The issuer stands at the foot of the page only."""
    lines = [rec.locale.label(rng, rec.roles[1])] * (rng.random() < 0.7)
    lines += block(rec.recipient, rng, False) + [""] + [rec.title]
    lines += [pair(a, b, separator(rng)) for a, b in rec.meta]
    lines += [rec.dateline] * bool(rec.dateline) + [""] + table(rec, rng)
    lines += totals(rec, rng, rng.choice((None, 54))) + [""] + rec.notes + [""]
    tail = block(rec.issuer, rng) + bank_lines(rec.issuer)
    if rng.random() < 0.5:
        return lines + [rng.choice((" | ", " · ", ", ")).join(tail)]
    return lines + [rec.locale.label(rng, rec.roles[0])] * (rng.random() < 0.5) + tail


SEEN = (letter, meta_at_right, key_values, markdown, header_row, label_column, email, from_to,
        amount_first, dotted, narrow, flat, delimited, shuffled, window, page_foot)
