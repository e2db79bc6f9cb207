"""The report's building blocks: numbers, tables, dots with intervals, bars, figures, and the page around them.

Everything is HTML with no script, no link outwards and no font to fetch. Text that comes from data is escaped here and
nowhere else: `escape` for words, and every block takes plain words unless its docstring says HTML.
"""

import html
import math
from collections.abc import Iterable, Sequence

from empatheia_jax.evaluation.page_style import CSS

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
"""The page may load nothing but what it holds."""

PER_CENT = "\u00a0%"
"""The sign after a number, not to be torn from it."""

Estimate = float | Sequence[float] | None
"""A number, or [number, low, high], or None where it was not measured."""


# Words and numbers ====================================================================================================


def escape(value) -> str:
    """A value as text that is safe inside HTML and in attributes."""
    return html.escape("–" if value is None else str(value), quote=True)


def words_of(value) -> str:
    """Text from data, in its own writing direction."""
    return f'<bdi dir="auto">{escape(value)}</bdi>'


def interval(value: Estimate) -> tuple[float, float, float] | None:
    """(value, low, high), low = high = value where no interval is known; None where there is no number."""
    if value is None or isinstance(value, str):
        return None
    triple = tuple(value) if isinstance(value, Sequence) else (value,) * 3
    if len(triple) != 3 or any(part is None or not math.isfinite(part) for part in triple):
        return None
    return triple


def number(value: Estimate, digits: int = 2, scale: float = 1.0, sign: bool = False) -> str:
    """A number, with its interval where it has one."""
    triple = interval(value)
    if triple is None:
        return "–"
    middle, low, high = (f"{part * scale:{'+' if sign else ''}.{digits}f}".replace("-", "−") for part in triple)
    return middle if triple[1] == triple[2] else f"{middle} <small>[{low}, {high}]</small>"


def percent(value: Estimate, digits: int = 1) -> str:
    """A share in [0, 1] in per cent, with its interval where it has one."""
    middle, space, rest = number(value, digits, 100.0).partition(" ")
    return middle if middle == "–" else f"{middle}{PER_CENT}{space}{rest}"


def clock(seconds: float) -> str:
    """Seconds for people: "9.6 s", "84 s", "2 min 05 s"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02d} s"


# Blocks ===============================================================================================================


def figure(body: str, caption: str) -> str:
    """A framed figure. `body` and `caption` are HTML."""
    return f"<figure>{body}<figcaption>{caption}</figcaption></figure>"


def no_data(caption: str, why: str) -> str:
    """The place of a figure that could not be drawn, and the reason in plain words. `caption` is HTML."""
    return figure(f'<p class="none">No data: {escape(why)}</p>', caption)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1, style: str = "") -> str:
    """A table that scrolls sideways on a narrow screen. Cells are HTML; the first of a row is its header.

    Args:
      words: how many columns from the left hold words; the others hold numbers and are set flush right.
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
    """A box that scrolls sideways, also by keyboard. `body` is HTML."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{body}</div>'


Dots = tuple[str, float | None, Sequence[tuple[str, int, Estimate]]]
"""(heading, a share to compare with, [(label, series 1..4, share)])."""


def dots(groups: Sequence[Dots]) -> str:
    """Shares on a common scale from 0 to 100 %, each a dot with its interval; what to compare with is a dashed line."""
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
    """Seconds as bars on a common scale, with a tick where a budget ends.

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
    """The few numbers to know first: (what, value, note). Values and notes are HTML."""
    cells = (
        f"<div><dt>{escape(what)}</dt><dd>{value}<small>{note}</small></dd></div>" for what, value, note in entries
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def pairs(entries: Iterable[tuple[str, str]]) -> str:
    """Names and what belongs to them, one below the other: (words, HTML)."""
    cells = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in entries)
    return f'<dl class="chain">{cells}</dl>'


def details(summary: str, body: str) -> str:
    """A part that opens on demand. `body` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


# The page =============================================================================================================


def section(anchor: str, title: str, intro: str, *parts: str) -> tuple[str, str, str]:
    """(anchor, title, HTML) of a section. `intro` is HTML, one or two sentences; `parts` are HTML."""
    lead = f"<p>{intro}</p>" if intro else ""
    body = f'<section id="{anchor}" aria-labelledby="{anchor}-title"><h2 id="{anchor}-title">{escape(title)}</h2>{lead}'
    return anchor, title, body + "".join(parts) + "</section>"


def document(title: str, lead: str, top: str, sections: Sequence[tuple[str, str, str]], foot: str) -> str:
    """The whole page. `lead`, `top` and `foot` are HTML."""
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
