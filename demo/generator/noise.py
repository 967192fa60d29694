"""Noise of scanning and conversion. Spans marked by `keep` keep their characters."""

import re
import unicodedata

from .record import KEEP, KEPT

_LOOKALIKES = {"O": "0", "0": "O", "l": "1", "I": "l", "i": "l", "m": "rn", "S": "5", "B": "8",
               "e": "c", "a": "o", "g": "q", "u": "ü", ".": ",", ":": ";", "t": "f", "n": "h"}
_MARKED = re.compile(f"({KEEP}[^{KEPT}]*{KEPT})")


def _typos(rng, text, rate):
    out = []
    for c in text:
        if c.isalnum() and rng.random() < rate:
            kind = rng.random()
            c = _LOOKALIKES.get(c, c) if kind < 0.6 else "" if kind < 0.8 else c + c
        out.append(c)
    return "".join(out)


def _outside_kept(text, change):
    """Applies `change` to the stretches between kept spans."""
    return "".join(
        part if part.startswith(KEEP) else change(part) for part in _MARKED.split(text))


def _plain_letters(text):
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _page_lines(rng, lines, locale):
    """A header or footer of the page, or of the scanner or fax."""
    total = rng.randrange(1, 5)
    page = rng.choice(locale.labels["page"]).format(rng.randrange(1, total + 1), total)
    extra = rng.choice((
        page, page, f"--- {page} ---", "Scanned by DocuScan", f"FAX {rng.randrange(10**6, 10**7)} P.01",
        "COPY", "* * *", "[logo]", "Original", "|||||| |||| || |||||", "ORIGINAL FOR RECIPIENT"))
    return [extra] + lines if rng.random() < 0.5 else lines + [extra]


def apply(rng, lines, locale):
    """The document's final text."""
    if rng.random() < 0.25:
        lines = _page_lines(rng, lines, locale)
    if rng.random() < 0.1:  # a slogan, a hand-written remark, a stamp
        words = rng.sample(locale.labels["items"] + locale.labels["food"], rng.randrange(1, 4))
        remark = " ".join(words) + rng.choice(("", "!", ".", "?", " ...", " ok"))
        lines = list(lines)
        lines.insert(rng.choice((0, 1, len(lines))), remark)
    if rng.random() < 0.03:  # a page of terms and conditions
        lines = lines + [""] + rng.choices(locale.labels["terms"], k=rng.randrange(8, 60))
    if rng.random() < 0.2:
        lines = [x for x in lines if x.strip()]
    elif rng.random() < 0.1:
        lines = [y for x in lines for y in (x, "")]
    text = "\n".join(lines)
    if rng.random() < 0.25:
        rate = rng.choice((0.005, 0.01, 0.02, 0.04))
        text = _outside_kept(text, lambda part: _typos(rng, part, rate))
    if rng.random() < 0.08:
        text = _outside_kept(text, _plain_letters)
    if rng.random() < 0.08:
        text = _outside_kept(text, str.upper)
    if rng.random() < 0.08:
        text = _outside_kept(text, lambda part: re.sub(
            " ", lambda _: rng.choice((" ", " ", "  ")), part))
    if rng.random() < 0.05:
        text = _outside_kept(text, lambda part: re.sub(" {2,}", " ", part))
    text = text.replace(KEEP, "").replace(KEPT, "")
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")
