"""Prints a document of the demo as a PDF: python demo/pdf.py demo/samples/invoice.txt demo/samples/invoice.pdf

Needs reportlab 4.4.4. A column of text is a fixed width, set in Helvetica word by word, as programs for invoices do it.
"""

import re
import sys

from reportlab import rl_config
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

rl_config.invariant = 1  # The same bytes each time.

COLUMN, LINE, LEFT, TOP, SIZE = 5.6, 14.0, 56.0, 72.0, 10.0


def main(source: str, target: str) -> None:
    text = open(source, encoding="utf-8").read()
    canvas = Canvas(target, pagesize=A4)
    canvas.setTitle(source.rsplit("/", 1)[-1])
    canvas.setFont("Helvetica", SIZE)
    _, height = A4
    for row, line in enumerate(text.strip("\n").split("\n")):
        # What stands two spaces apart stands in columns.
        for part in re.finditer(r"\S+(?: \S+)*", line):
            canvas.drawString(LEFT + part.start() * COLUMN, height - TOP - row * LINE, part.group())
    canvas.showPage()
    canvas.save()


if __name__ == "__main__":
    main(*sys.argv[1:])
