"""Layouts kept from training: only the held-out split uses them."""

from .layouts import block, left, pair, width
from .small import signed


def html(rec, rng):
    """Table markup as it is."""
    role = [rec.locale.label(rng, r) for r in rec.roles]
    lines = ["<html><body>", f"<h1>{rec.title}</h1>"]
    lines += [f"<p>{'<br/>'.join(block(rec.issuer, rng))}</p>"]
    lines += [f"<div>{role[1]}<br/>{'<br/>'.join(block(rec.recipient, rng, False))}</div>", "<table>"]
    lines += [f"<tr><th>{a}</th><td>{b}</td></tr>" for a, b in rec.meta]
    lines += [f"<tr><td>{rec.dateline}</td></tr>"] * bool(rec.dateline) + ["</table>", "<table>"]
    for row in ([rec.columns] + rec.rows) * bool(rec.rows):
        lines.append("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>")
    lines += [f"<tr><td>{a}</td><td>{b}</td></tr>" for a, b in rec.totals]
    return lines + ["</table>"] + [f"<p>{x}</p>" for x in rec.notes] + ["</body></html>"]


def boxes(rec, rng):
    """Cells drawn with characters."""
    role = [rec.locale.label(rng, r) for r in rec.roles]
    groups = [
        [f"{role[0]}:"] + block(rec.issuer, rng), [f"{role[1]}:"] + block(rec.recipient, rng, False),
        [rec.title] + [pair(a, b) for a, b in rec.meta] + [rec.dateline] * bool(rec.dateline),
        [" / ".join(row) for row in rec.rows], [f"{a} > {b}" for a, b in rec.totals],
    ]
    size = max(width(x) for group in groups for x in group)
    rule = "+" + "-" * (size + 2) + "+"
    lines = [rule]
    for group in groups:
        lines += [f"| {left(x, size)} |" for x in group] + [rule] * bool(group)
    return lines + rec.notes


def sidebar(rec, rng):
    """Reference lines in a left margin, the letter beside them."""
    side = [x for a, b in rec.meta for x in (a, f"  {b}", "")]
    side += [rec.dateline] * bool(rec.dateline)
    main = [rec.issuer.name] + rec.issuer.address + ["", rec.title, ""]
    main += [rec.locale.label(rng, rec.roles[1])] + block(rec.recipient, rng, False) + [""]
    main += ["  ".join(row) for row in rec.rows] + [f"{a} = {b}" for a, b in rec.totals]
    count = max(len(side), len(main))
    size = max((width(x) for x in side), default=0) + 4
    side, main = side + [""] * (count - len(side)), main + [""] * (count - len(main))
    return [f"{left(a, size)}| {b}".rstrip() for a, b in zip(side, main)] + rec.notes


def nested(rec, rng):
    """Indented groups, as a configuration file has them."""
    role = [rec.locale.label(rng, r) for r in rec.roles]
    lines = [f"{rec.title}:"]
    lines += [f"  - {a or 'info'}: {b}" for a, b in rec.meta]
    lines += [f"  - {rec.dateline}"] * bool(rec.dateline)
    for name, party in zip(role, (rec.issuer, rec.recipient)):
        lines += [f"  {name}:", f"    name: {party.name}"] + [f"    - {x}" for x in party.address]
    lines += ["  lines:"] * bool(rec.rows) + [f"    - [{', '.join(row)}]" for row in rec.rows]
    return lines + [f"  - {a}: {b}" for a, b in rec.totals] + [f"  # {x}" for x in rec.notes]


def value_above(rec, rng):
    """Each value with its label underneath, as some forms have it."""
    lines = block(rec.issuer, rng) + ["", rec.title]
    for a, b in rec.meta:
        lines += [b, f"({a})" if a else "()"]
    lines += [rec.dateline] * bool(rec.dateline) + [""]
    lines += [rec.recipient.name, f"({rec.locale.label(rng, rec.roles[1])})"] + rec.recipient.address
    lines += [" ".join(row) for row in rec.rows]
    for a, b in rec.totals:
        lines += [b, f"({a})"]
    return lines + rec.notes


def summary(rec, rng):
    """A colleague's note in bullet points."""
    role = [rec.locale.label(rng, r) for r in rec.roles]
    lines = [f"» {rec.title} «", f"• {role[0]} → {rec.issuer.name} ({', '.join(rec.issuer.address)})"]
    lines += [f"• {a} → {b}" if a else f"• {b}" for a, b in rec.meta]
    lines += [f"• {rec.dateline}"] * bool(rec.dateline)
    lines += [f"• {a} → {b}" for a, b in rec.totals]
    return lines + [f"• {role[1]} → {rec.recipient.name}"] + [f"• {x}" for x in rec.notes]


HELD = (html, boxes, sidebar, nested, value_above, summary)


def receipt_html(rec, rng):
    """A receipt as table markup."""
    lines = [f"<h2>{rec.issuer.name}</h2>", f"<p>{', '.join(rec.issuer.address)}</p>"]
    lines += [f"<h3>{rec.title}</h3>"]
    if rec.customer:
        lines.append(f"<p>{rec.locale.label(rng, 'bill_to')}: {rec.customer}</p>")
    facts = rec.meta + [tuple(r) for r in rec.rows] + rec.totals + rec.tender
    return lines + [f"<tr><td>{a}</td><td>{b}</td></tr>" for a, b in facts]


def receipt_boxes(rec, rng):
    """A slip with every line framed."""
    lines = [rec.issuer.name] + rec.issuer.address + [rec.title]
    if rec.customer:
        lines.append(f"{rec.locale.label(rng, 'bill_to')} {rec.customer}")
    lines += [pair(a, b, " ") for a, b in rec.meta]
    lines += [f"{a} > {b}" for a, b in [tuple(r) for r in rec.rows] + rec.totals + rec.tender]
    size = max(width(x) for x in lines)
    return [f"# {left(x, size)} #" for x in lines]


HELD_RECEIPTS = (receipt_html, receipt_boxes)


def ofx(line, rng):
    """Tagged fields."""
    sign = "" if line.incoming else "-"
    lines = ["<STMTTRN>", f"<TRNTYPE>{line.locale.label(rng, 'credit' if line.incoming else 'debit')}",
             f"<DTPOSTED>{line.booking}", f"<TRNAMT>{sign}{line.amount}"]
    lines += [f"<REFNUM>{line.number}"] if line.number else []
    lines += [f"<NAME>{line.party}"] if line.party else []
    return lines + [f"<MEMO>{line.text} {line.purpose}".rstrip(), "</STMTTRN>"]


def framed_row(line, rng):
    """A statement's row drawn with characters, parts on lines of their own."""
    cells = [line.booking, line.text, line.party, line.purpose, signed(line, rng)]
    if line.number:
        cells.insert(2, f"{line.locale.label(rng, 'reference')} {line.number}")
    cells = [c for c in cells if c]
    size = max(width(c) for c in cells)
    rule = "+" + "=" * (size + 2) + "+"
    return [rule] + [f"| {left(c, size)} |" for c in cells] + [rule]


HELD_BANK = (ofx, framed_row)
