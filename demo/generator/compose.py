"""Layouts drawn at random, so that training teaches reading rather than a list of layouts.

A document becomes groups of (label, value) pairs and plain lines; a random style then says how a
pair is written, what stands around a line, how groups are set apart and in which order they come.
"""

import re

from .layouts import left, width
from .small import signed

_SEPARATORS = (
    ": ", ":", " : ", " = ", "=", " -> ", " » ", " | ", "|", " ~ ", "::", " :: ", ";", " / ", "\t",
    " - ", " – ", " — ", "  ", "    ", " ... ", "…", " * ", " # ", " ^ ", ", ", "; ", " ", " _ ",
    ">>", " => ", " ─ ", ". ", "! ", " ° ", " % ", " @ ", "·", " : : ", " + ", " ¦ ", "\\ ", " ║ ")
_PREFIXES = (
    "", "", "", "", "- ", "* ", "• ", "> ", "| ", "# ", "// ", "-- ", "▪ ", "→ ", "» ", "o ", "+ ",
    "   ", "      ", "\t", "[ ] ", "[x] ", "~ ", ">> ", "% ", "║ ", "· ", "– ", "= ", "@", "; ",
    "( ", "{ ", "< ", "' ", '" ', "│ ", "✓ ", "§ ", "& ", "!", "^ ", "_")
_SUFFIXES = ("", "", "", "", "", ";", " |", " #", " *", ",", "  ", "\\", "<br>", ".", " //", " ]",
             " )", " }", " >", " ║", " -", " |", " :", "'", " !", " ~", "»", " +", " │", " «")
_RULES = ("-", "=", "_", "*", "~", "#", "+-", "- ", ".", "─", "═", "<>", "+", "|", "/", "^", ":")
_TAGS = ("doc", "row", "cell", "field", "entry", "item", "b", "span", "li", "dt", "dd", "key", "v",
         "name", "value", "x", "a", "text", "line", "data", "tag", "rec", "B", "FIELD", "ROW", "em",
         "ns:f", "col", "c1", "c2", "info", "label", "strong", "k", "sum", "ul", "dl", "H", "PRE")


def _tag_of(label):
    """A label as an element name."""
    return "".join(w.capitalize() for w in re.findall(r"\w+", label)) or "Field"


def _pair_style(rng):
    """How one document writes a label and its value."""
    sep = rng.choice(_SEPARATORS)
    a, b = rng.choice(_TAGS), rng.choice(_TAGS)
    attribute = rng.choice(("", "", f' class="{b}"', f" id={rng.randrange(99)}", f" {b}='1'"))
    ends = rng.choice(("", ":", "", " :", ";", "."))
    inset = rng.choice(("", "", "  ", "    ", "> ", "- ", "\t"))
    pad = rng.choice((12, 16, 20, 24, 28))
    return rng.choice((
        lambda k, v: f"{k}{sep}{v}", lambda k, v: f"{k}{sep}{v}", lambda k, v: f"{k}{sep}{v}",
        lambda k, v: f"{k}{sep}{v}", lambda k, v: f"{left(k + ends, pad)} {v}",
        lambda k, v: f"[{k}] {v}", lambda k, v: f"{{{k}}} {v}", lambda k, v: f"({k}) {v}",
        lambda k, v: f"{v} ({k})", lambda k, v: f"{v}{sep}{k}", lambda k, v: f"{v} [{k}]",
        lambda k, v: f"<{_tag_of(k)}>{v}</{_tag_of(k)}>", lambda k, v: f"<{_tag_of(k)}>{v}",
        lambda k, v: f"<{_tag_of(k).upper()}{attribute}>{v}", lambda k, v: f"#{_tag_of(k)}{sep}{v}",
        lambda k, v: f"{k}{ends}\n{inset}{v}", lambda k, v: f"{k}{ends}\n{inset}{v}",
        lambda k, v: f'"{k}": "{v}",', lambda k, v: f"{_tag_of(k)}=\"{v}\"",
        lambda k, v: f"<{a}{attribute}>{k}</{a}><{b}>{v}</{b}>",
        lambda k, v: f"<{a}>{k}{ends}<{b}{attribute}>{v}</{b}></{a}>",
        lambda k, v: f"|{k}|{v}|", lambda k, v: f"| {k} | {v} |", lambda k, v: f"*{k}* {v}",
        lambda k, v: f"{k}({v})", lambda k, v: f"{k} <{v}>", lambda k, v: f"{k} [{v}]",
        lambda k, v: f"[[{k}{sep}{v}]]", lambda k, v: f"{k.upper()}{sep}{v}",
    ))


def _group_style(rng):
    """What one document puts around a group of lines."""
    rule = (rng.choice(_RULES) * rng.choice((3, 8, 20, 40)))[:40]
    tag = rng.choice(_TAGS)
    inset = rng.choice(("  ", "    ", "\t", "> ", "| "))
    return rng.choice((
        lambda g: g, lambda g: g, lambda g: g + [""], lambda g: g + [""], lambda g: g + [rule],
        lambda g: [rule] + g + [rule], lambda g: [f"<{tag}>"] + g + [f"</{tag}>"],
        lambda g: ["{"] + [inset + x for x in g] + ["}"], lambda g: g[:1] + [inset + x for x in g[1:]],
        lambda g: ["[" + rng.choice(_TAGS) + "]"] + g, lambda g: [rng.choice(_TAGS) + ":"] + [
            inset + x for x in g], lambda g: [rng.choice((", ", " | ", "; ", " · ", " - ")).join(g)],
        lambda g: g + ["", ""], lambda g: [f"<{tag}>{x}</{tag}>" for x in g],
        lambda g: [rng.choice(("<br>", "<br/>", "\\n", " // ", "|")).join(g)],
    ))


def _around_lines(rng):
    """What one document puts before and after every line."""
    prefix, suffix = rng.choice(_PREFIXES), rng.choice(_SUFFIXES)
    kind = rng.random()
    if kind < 0.45:
        return lambda lines: lines
    if kind < 0.6:  # numbered
        mark = rng.choice((". ", ") ", ": ", " "))
        return lambda lines: [f"{n}{mark}{x}" for n, x in enumerate(lines, 1)]
    if kind < 0.8:
        return lambda lines: [f"{prefix}{x}{suffix}" for x in lines]
    # A frame, its right side aligned or, as extraction often leaves it, not.
    aligned = rng.random() < 0.6

    def frame(lines):
        size = max(map(width, lines), default=0) if aligned else 0
        return [f"{prefix}{left(x, size)}{suffix}" for x in lines]

    return frame


def _beside(rng, a, b):
    """Two groups side by side with a gutter."""
    gutter = rng.choice(("  ", "    ", " | ", "|", " ║ ", "\t", "          ", " ; ", " : "))
    size = max(map(width, a), default=0)
    count = max(len(a), len(b))
    a, b = a + [""] * (count - len(a)), b + [""] * (count - len(b))
    return [(left(x, size) + gutter + y).rstrip() for x, y in zip(a, b)]


def _render(rng, groups):
    """Groups are lists of strings and (label, value) pairs; empty groups fall out."""
    pair, wrap = _pair_style(rng), _group_style(rng)
    second = _pair_style(rng) if rng.random() < 0.3 else pair
    out = []
    for group in groups:
        style = second if rng.random() < 0.3 else pair
        lines = []
        for item in group:
            text = item if isinstance(item, str) else style(*item) if item[0] else item[1]
            lines += text.split("\n")
        if lines:
            out.append(lines)
    if len(out) > 2 and rng.random() < 0.2:
        at = rng.randrange(len(out) - 1)
        out[at:at + 2] = [_beside(rng, out[at], out[at + 1])]
    around = _around_lines(rng)
    if rng.random() < 0.5:  # the whole document, or each group, stands inside its marks
        lines = around([x for group in out for x in wrap(group)])
    else:
        lines = [x for group in out for x in wrap(around(group))]
    if rng.random() < 0.1:
        return [rng.choice((" ", " | ", "; ", "  ", " / ", ", ", "")).join(x for x in lines if x)]
    return lines


def _party(rng, party, label):
    """A heading and the party below it, or the two as a pair."""
    rest = list(party.address)
    if rng.random() < 0.5:
        rest += party.contact + (party.bank if rng.random() < 0.4 else [])
    if rng.random() < 0.2:
        rest = []
    if rng.random() < 0.15:  # the address on the name's line
        rest, address = [], rng.choice((" (", ", ", " - ", "; ", " / ")) + ", ".join(party.address)
        address += ")" if address.startswith(" (") else ""
        return [(label, party.name + address)]
    if not label:
        return [party.name] + rest
    kind = rng.random()
    if kind < 0.4:
        return [(label, party.name)] + rest
    if kind < 0.5:
        inner = rng.choice(("name", "Name", "NAME", "n", "company"))
        return [label + rng.choice(("", ":")), (inner, party.name)] + rest
    return [label + rng.choice(("", ":", " >", " -"))] + [party.name] + rest


def _rows(rng, rec):
    """Items, each on a line."""
    if not rec.rows or rng.random() < 0.3:
        return []
    gap = rng.choice((" ", "  ", " | ", "; ", ", ", "\t", " / ", " x ", " ~ "))
    opening, closing = rng.choice((("", ""), ("", ""), ("[", "]"), ("(", ")"), ("- ", "")))
    head = [rec.columns] * (rng.random() < 0.4 and any(rec.columns))
    return [opening + gap.join(row) + closing for row in head + rec.rows]


def composed(rec, rng):
    """A commercial document in a style drawn at random."""
    role = [rec.locale.label(rng, r) for r in rec.roles]
    ordered = rng.random() < 0.5
    title = [rec.title]
    meta = rec.meta + [rec.dateline] * bool(rec.dateline)
    issuer = _party(rng, rec.issuer, "" if ordered and rng.random() < 0.6 else role[0])
    recipient = _party(rng, rec.recipient, "" if ordered and rng.random() < 0.2 else role[1])
    groups = [issuer, recipient, title + meta if rng.random() < 0.5 else meta,
              _rows(rng, rec), list(rec.totals), rec.notes]
    if groups[2] is meta:
        groups.insert(rng.choice((0, 0, 1, 2)), title)
    if not ordered:
        rng.shuffle(groups)
    return _render(rng, groups)


def composed_receipt(rec, rng):
    """A receipt in a style drawn at random."""
    merchant = [rec.issuer.name] + rec.issuer.address
    merchant += rec.issuer.contact if rng.random() < 0.4 else []
    customer = [(rec.locale.label(rng, "bill_to"), rec.customer)] if rec.customer else []
    rows = [tuple(row) for row in rec.rows] if rng.random() < 0.6 else [" ".join(r) for r in rec.rows]
    groups = [merchant, [rec.title], customer, list(rec.meta), rows,
              list(rec.totals) + list(rec.tender), rec.notes]
    if rng.random() < 0.3:
        groups[0], groups[1] = groups[1], groups[0]
    elif rng.random() < 0.3:
        groups[1:4] = rng.sample(groups[1:4], 3)
    return _render(rng, groups)


def composed_bank(line, rng):
    """A bank line in a style drawn at random."""
    label = lambda key: line.locale.label(rng, key)
    named = rng.random() < 0.6  # whether facts that speak for themselves carry a label
    own = (lambda key: label(key)) if named else (lambda key: "")
    facts = [(own("booking"), line.booking)]
    if rng.random() < 0.4:  # the direction is a fact of its own
        facts.append((own("payref"), label("credit" if line.incoming else "debit")))
        facts.append((own("amount"), ("" if line.incoming else rng.choice(("", "-"))) + line.amount))
    else:
        facts.append((own("amount"), signed(line, rng)))
    role = rng.choice(("payer", "payee")) if rng.random() < 0.1 else (
        "payer" if line.incoming else "payee")
    if line.party:
        facts.append((own(role) if rng.random() < 0.8 else rng.choice(("Name", "NAME")), line.party))
    if line.number:
        facts.append((label("reference"), line.number))
    facts.append((own("payref"), f"{line.text} {line.purpose}".strip() if rng.random() < 0.5
                  else line.text))
    if named and rng.random() < 0.4:
        facts.append((label("valuta"), line.valuta))
    if rng.random() < 0.3:
        facts.append((label("balance"), line.balance))
    if rng.random() < 0.3:
        facts.append((label("iban"), line.iban))
    if rng.random() < 0.6:
        rng.shuffle(facts)
    account = [line.ours] if rng.random() < 0.3 else []
    return _render(rng, [account, facts])
