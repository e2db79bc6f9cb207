"""The report's HTML elements: numbers, tables, dots with intervals, bars, figures, and the page around them.

The HTML has no script, no external link and no font to download. Text from data is escaped here and nowhere else, by
`escape`; every function takes plain text unless its docstring says HTML.
"""

import html
import math
from collections.abc import Iterable, Sequence

from empatheia_jax.evaluation.page_style import CSS

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
"""The page may load nothing from outside."""

PER_CENT = "\u00a0%"
"""The percent sign after a number, with a space that does not break."""

Estimate = float | Sequence[float] | None
"""A number, or [number, low, high], or None where it was not measured."""


# Words and numbers ====================================================================================================


def escape(value) -> str:
    """Return a value as text that is safe inside HTML and in attributes."""
    return html.escape("–" if value is None else str(value), quote=True)


def text_html(value) -> str:
    """Return text from data as HTML that keeps its own writing direction."""
    return f'<bdi dir="auto">{escape(value)}</bdi>'


def interval(value: Estimate) -> tuple[float, float, float] | None:
    """Return (value, low, high), low = high = value where no interval is known; None where there is no number."""
    if value is None or isinstance(value, str):
        return None
    triple = tuple(value) if isinstance(value, Sequence) else (value,) * 3
    if len(triple) != 3 or any(part is None or not math.isfinite(part) for part in triple):
        return None
    return triple


def number(value: Estimate, digits: int = 2, scale: float = 1.0, sign: bool = False) -> str:
    """Format a number, with its interval where it has one.

    Args:
      value: the number.
      digits: after the point.
      scale: factor before formatting.
      sign: a positive number gets a plus sign.
    """
    triple = interval(value)
    if triple is None:
        return "–"
    middle, low, high = (f"{part * scale:{'+' if sign else ''}.{digits}f}".replace("-", "−") for part in triple)
    return middle if triple[1] == triple[2] else f"{middle} <small>[{low}, {high}]</small>"


def percent(value: Estimate, digits: int = 1) -> str:
    """Format a share in [0, 1] in per cent, with its interval where it has one."""
    middle, space, rest = number(value, digits, 100.0).partition(" ")
    return middle if middle == "–" else f"{middle}{PER_CENT}{space}{rest}"


def clock(seconds: float) -> str:
    """Format seconds: "9.6 s", "84 s", "2 min 05 s"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    return f"{rounded} s" if rounded < 120 else f"{rounded // 60} min {rounded % 60:02d} s"


# Blocks ===============================================================================================================


def figure(body: str, caption: str) -> str:
    """Return a figure with its caption; `body` and `caption` are HTML."""
    return f"<figure>{body}<figcaption>{caption}</figcaption></figure>"


def no_data(caption: str, reason: str) -> str:
    """Return the place of a figure that could not be drawn, with the reason; `caption` is HTML."""
    return figure(f'<p class="none">No data: {escape(reason)}</p>', caption)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1, style: str = "") -> str:
    """Return a table that scrolls sideways on a narrow screen.

    Args:
      head: column titles, HTML.
      rows: cells, HTML; the first of each row is its header.
      words: how many columns from the left hold text; the others hold numbers and are aligned right.
      style: CSS class of the table.
    """
    kinds = ["" if column < words else ' class="n"' for column in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{cell}</th>' for kind, cell in zip(kinds, head, strict=True))
    body = []
    for row in rows:
        first, *rest = row
        cells = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], rest, strict=True))
        body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return scroll(
        f'<table class="{style}"><thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table>', "table"
    )


def scroll(body: str, label: str) -> str:
    """Return a box that scrolls sideways, also by keyboard; `body` is HTML."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{body}</div>'


Dots = tuple[str, float | None, Sequence[tuple[str, int, Estimate]]]
"""(heading, a share to compare with or None, [(label, series 1..4, share)])."""


def dots(groups: Sequence[Dots]) -> str:
    """Return shares as dots with intervals on a scale from 0 to 100 %; the share to compare with is a dashed line."""
    parts = []
    for heading, mark, entries in groups:
        parts.append(f'<div class="head">{escape(heading)}</div>')
        for label, series, value in entries:
            parts.append(f'<div class="label">{escape(label)}</div><div class="value">{percent(value)}</div>')
            parts.append(f'<div class="track" aria-hidden="true">{_dot(value, series, mark)}</div>')
    ticks = "".join(f'<span style="left:{tick}%">{tick}{PER_CENT}</span>' for tick in (0, 25, 50, 75, 100))
    parts.append(f'<div class="scale" aria-hidden="true">{ticks}</div>')
    return f'<div class="rows">{"".join(parts)}</div>'


def _dot(value: Estimate, series: int, mark: float | None) -> str:
    triple = interval(value)
    line = f'<i class="mark" style="left:{100 * mark:.2f}%"></i>' if mark is not None else ""
    if triple is None:
        return line
    middle, low, high = (100 * min(1.0, max(0.0, part)) for part in triple)
    whisker = f'<i class="whisker c{series}" style="left:{low:.2f}%;width:{high - low:.2f}%"></i>' if high > low else ""
    return f'{line}{whisker}<i class="dot c{series} k{series}" style="left:{middle:.2f}%"></i>'


def bars(rows: Sequence[tuple[str, float, float | None]]) -> str:
    """Return seconds as bars on a common scale, with a tick where a budget ends.

    Args:
      rows: (label, seconds, budget in seconds or None).
    """
    longest = max([max(seconds, limit or 0.0) for _, seconds, limit in rows] + [1e-9])
    parts = []
    for label, seconds, limit in rows:
        over = limit is not None and seconds > limit
        bar = f'<i class="bar c{2 if over else 1}" style="width:{100 * seconds / longest:.2f}%"></i>'
        tick = "" if limit is None else f'<i class="limit" style="left:calc({100 * limit / longest:.2f}% - 1px)"></i>'
        note = "" if limit is None else f" <small>of {clock(limit)}{', over' if over else ''}</small>"
        parts.append(f'<div class="label">{escape(label)}</div><div class="value">{clock(seconds)}{note}</div>')
        parts.append(f'<div class="track" aria-hidden="true">{bar}{tick}</div>')
    return f'<div class="rows">{"".join(parts)}</div>'


def tiles(entries: Sequence[tuple[str, str, str]]) -> str:
    """Return the most important numbers as tiles: (label, value, note). Values and notes are HTML."""
    cells = (
        f"<div><dt>{escape(label)}</dt><dd>{value}<small>{note}</small></dd></div>" for label, value, note in entries
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def pairs(entries: Iterable[tuple[str, str]]) -> str:
    """Return names and their values, one below the other: (text, HTML)."""
    cells = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in entries)
    return f'<dl class="chain">{cells}</dl>'


def details(summary: str, body: str) -> str:
    """Return a part that opens on demand; `body` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


# The page =============================================================================================================


def section(anchor: str, title: str, intro: str, *parts: str) -> tuple[str, str, str]:
    """Return (anchor, title, HTML) of a section; `intro`, one or two sentences, and `parts` are HTML."""
    lead = f"<p>{intro}</p>" if intro else ""
    body = f'<section id="{anchor}" aria-labelledby="{anchor}-title"><h2 id="{anchor}-title">{escape(title)}</h2>{lead}'
    return anchor, title, body + "".join(parts) + "</section>"


def document(title: str, sections: Sequence[tuple[str, str, str]], *, lead: str, top: str, foot: str) -> str:
    """Return the complete page.

    Args:
      title: of the page.
      sections: from `section`.
      lead: HTML under the title.
      top: HTML above the sections.
      foot: HTML of the footer.
    """
    links = "".join(f'<li><a href="#{anchor}">{escape(name)}</a></li>' for anchor, name, _ in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f'<header class="top"><h1>{escape(title)}</h1><p class="lead">{lead}</p>{top}'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n'
        f"<main>{''.join(body for _, _, body in sections)}</main>\n<footer>{foot}</footer>\n</body>\n</html>\n"
    )
