"""The report's HTML elements: numbers, tables, dots with intervals, bars, figures, and the page around them.

The HTML has no script, no external link and no font to download. Text from data is escaped here and nowhere else, by
`escape`; every function takes plain text unless its docstring says HTML.
"""

import html
import math
from collections.abc import Iterable, Sequence

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


# Its style: light or dark by the reader's setting, one column on a phone ==============================================

CSS = """
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --surface: #ffffff; --ink: #1d2126; --muted: #5b636d; --line: #dcdfe3; --accent: #2c62a6;
  --s1: #2c62a6; --s2: #b9501a; --s3: #1f7a55; --s4: #80479a; --good: #1c6b45; --bad: #a8321f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --surface: #1b1f24; --ink: #e7e9ec; --muted: #a2abb6; --line: #343a42; --accent: #86b4ea;
    --s1: #86b4ea; --s2: #f0a36c; --s3: #6fcba0; --s4: #cb9fe2; --good: #7cd3a6; --bad: #f2998a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
header.top, main, footer { max-width: 66rem; margin: 0 auto; padding: 0 1.25rem; }
header.top { padding-top: 2.5rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 .35rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .25rem; }
p { margin: 0 0 .75rem; max-width: 46rem; }
.lead, .muted { color: var(--muted); }
a { color: var(--accent); }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 2px; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; margin: 1rem 0 0; padding: .6rem 0;
  border-block: 1px solid var(--line); font-size: .9rem; }
section { padding: 2.25rem 0 0; }
figure { margin: 1rem 0 0; padding: 1rem; background: var(--surface); border: 1px solid var(--line);
  border-radius: .5rem;
  min-width: 0; }
figcaption { color: var(--muted); font-size: .875rem; line-height: 1.45; margin-top: .7rem; }
figcaption b { color: var(--ink); font-weight: 600; }
.none { color: var(--muted); font-style: italic; margin: 0; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18.5rem), 1fr)); }
.two { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); align-items: start; }
p.legend { max-width: none; margin: .75rem 0 0; font-size: .9rem; }
.grid > figure, .two > figure { margin-top: 0; }
.grid, .two { margin-top: 1rem; }
svg.plot { display: block; width: 100%; height: auto; overflow: visible; }
svg.plot * { stroke-linejoin: round; }
video { display: block; width: 100%; max-width: 26rem; margin: 0 auto; border-radius: .35rem; background: #000; }
blockquote { margin: 0 0 1rem; padding-left: .9rem; border-left: 3px solid var(--accent); font-size: 1.15rem; }
.tiles { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  margin: 1.25rem 0 0; padding: 0; }
.tiles > div { background: var(--surface); border: 1px solid var(--line); border-radius: .5rem;
  padding: .7rem .9rem; }
.tiles dt { color: var(--muted); font-size: .82rem; line-height: 1.3; }
.tiles dd { margin: .1rem 0 0; font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles small { display: block; color: var(--muted); font-size: .8rem; font-weight: 400; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 .4rem; font-weight: 600; }
th, td { padding: .35rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--muted); font-weight: 500; font-size: .82rem; vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 7.5rem; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.heat { background: color-mix(in srgb, var(--s1) calc(var(--share) * 55%), transparent); }
table.confusion tbody th { min-width: 0; }
table.confusion { width: auto; min-width: 100%; }
table.confusion td { text-align: center; border: 1px solid var(--line); }
table.confusion td.right { box-shadow: inset 0 0 0 2px var(--ink); }
.met { color: var(--good); font-weight: 600; } .missed { color: var(--bad); font-weight: 600; }
.rows { display: grid; grid-auto-flow: dense; grid-template-columns: minmax(7rem, 14rem) 1fr 9.5rem; gap: .3rem 1rem;
  align-items: center; font-size: .9rem; }
.rows > .label { grid-column: 1; } .rows > .track, .rows > .scale { grid-column: 2; } .rows > .value { grid-column: 3; }
.rows > .head { grid-column: 1 / -1; font-weight: 600; margin-top: .6rem; }
.rows > .head:first-child { margin-top: 0; }
.rows .value { font-variant-numeric: tabular-nums; white-space: nowrap; }
.rows .value small { color: var(--muted); }
.track { position: relative; height: 1.15rem; border-bottom: 1px solid var(--line); }
.track > i { position: absolute; display: block; }
.track .whisker { top: 50%; height: 3px; margin-top: -1px; border-radius: 2px; opacity: .45; }
.track .dot { top: 50%; width: .72rem; height: .72rem; margin: -.36rem 0 0 -.36rem; border-radius: 50%; }
.track .dot.k2 { border-radius: 1px; } .track .dot.k3 { border-radius: 1px; transform: rotate(45deg) scale(.9); }
.track .mark { top: 0; bottom: 0; width: 0; border-left: 1px dashed var(--muted); }
.track .bar { left: 0; top: 15%; height: 70%; border-radius: 0 3px 3px 0; min-width: 2px; }
.track .limit { top: -5%; height: 110%; width: 2px; background: var(--ink); }
.c1 { background: var(--s1); } .c2 { background: var(--s2); } .c3 { background: var(--s3); }
  .c4 { background: var(--s4); }
.scale { position: relative; height: 1.2rem; font-size: .78rem; color: var(--muted); }
.scale span { position: absolute; white-space: nowrap; transform: translateX(-50%); }
.scale span:first-child { transform: none; } .scale span:last-child { transform: translateX(-100%); }
.key { display: inline-flex; align-items: center; gap: .35rem; margin-right: 1rem; }
.key svg { width: .8rem; height: .8rem; }
dl.chain { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1rem; margin: 0; }
dl.chain dt { color: var(--muted); } dl.chain dd { margin: 0; overflow-wrap: anywhere; }
article { border-top: 1px solid var(--line); padding: 1rem 0 .25rem; }
article:first-of-type { border-top: 0; padding-top: 0; }
article h3 { margin-top: 0; }
.turns { list-style: none; margin: 0 0 .75rem; padding: 0; }
.turns b { color: var(--muted); font-weight: 500; }
.pair { display: grid; gap: .25rem 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr));
  margin-bottom: .75rem; }
.pair > div > b { display: block; color: var(--muted); font-weight: 500; font-size: .85rem; }
details { margin-top: .75rem; font-size: .95rem; } summary { cursor: pointer; color: var(--accent); }
code, .command { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .86em;
  overflow-wrap: anywhere; }
.sheet { min-width: 44rem; } .sheet img { display: block; width: 100%; border-radius: .25rem .25rem 0 0; }
footer { color: var(--muted); font-size: .85rem; padding-block: 2.5rem 3rem; }
@media (max-width: 40rem) {
  header.top { padding-top: 1.5rem; }
  h1 { font-size: 1.45rem; }
  figure { padding: .8rem; }
  .rows { grid-template-columns: 1fr max-content; grid-auto-flow: row; gap: .1rem .75rem; }
  .rows > .value { grid-column: 2; } .rows > .track, .rows > .scale { grid-column: 1 / -1; }
  .rows > .track { height: .95rem; margin-bottom: .35rem; }
  th, td { padding-inline: .4rem; }
  dl.chain { grid-template-columns: 1fr; gap: 0; } dl.chain dd { margin-bottom: .5rem; }
}
@media print { figure, article { break-inside: avoid; } nav { display: none; } }
"""
