"""matplotlib figures as inline SVG that follows the page: its font, its colours, light or dark.

Figures are drawn in stand-in colours which are then replaced by the page's CSS variables; ids are made unique, since
all figures share one document. Sizes are chosen so that letters stay readable on a phone.
"""

import dataclasses
import hashlib
import html
import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

INK, MUTED, LINE = "#0a0b01", "#0a0b02", "#0a0b03"
SERIES = ("#0a0b11", "#0a0b12", "#0a0b13", "#0a0b14")
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line"} | {c: f"--s{k}" for k, c in enumerate(SERIES, 1)}
MARKERS = ("o", "s", "D", "^")
MOST_POINTS = 400


@dataclasses.dataclass
class Curve:
    """One term of a loss: what training logged, and what held-out dialogues gave."""

    name: str
    steps: Sequence[float] = ()
    values: Sequence[float] = ()
    held_out_steps: Sequence[float] = ()
    held_out_values: Sequence[float] = ()


def curves(lines: Sequence[Curve], alt: str, *, log: bool = False, share: bool = False) -> str:
    """Training curves over steps, at most four; held-out values are rings in the curve's colour.

    Args:
      alt: what the figure shows, for those who do not see it.
      log: logarithmic values, where all are positive.
      share: values are shares, shown from 0 to 100 %.
    Returns:
      an `<svg>` element.
    """
    if not 1 <= len(lines) <= len(SERIES):
        raise ValueError(f"{len(lines)} curves in one figure: draw 1 to {len(SERIES)}")
    figure, axes = _axes(3.0, 2.1, legend=len(lines) > 1, label=False)
    scale = 100.0 if share else 1.0
    everything = []
    for color, line in zip(SERIES, lines, strict=False):
        steps, values = _thinned(line.steps, line.values)
        everything += [*values, *line.held_out_values]
        lonely = {"marker": ".", "markersize": 5} if len(steps) == 1 else {}
        axes.plot(steps, scale * values, color=color, linewidth=1.3, label=line.name, **lonely)
        rings = np.asarray(line.held_out_values, float) * scale
        axes.plot(
            line.held_out_steps,
            rings,
            "o",
            color=color,
            markersize=5.5,
            fillstyle="none",
            markeredgewidth=1.3,
            linestyle="--" if len(rings) > 1 else "none",
            linewidth=0.9,
            clip_on=False,
        )
    everything = np.asarray(everything, float)
    if log and np.all(everything > 0) and everything.max() > 3 * everything.min():
        _log_axis(axes, everything)
    elif share:
        axes.set_ylim(0, 103)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    elif np.all(everything >= 0):
        axes.set_ylim(0, 1.08 * max(everything.max(), 1e-12))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("step")
    if len(lines) > 1:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.18, 0.98),
            ncols=4,
            frameon=False,
            handlelength=0.9,
            columnspacing=0.8,
            handletextpad=0.4,
            borderpad=0.2,
            labelcolor=INK,
        )
    return _svg(figure, alt)


def scatter(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, alt: str) -> str:
    """Points of up to four groups, told apart by colour and shape, with the line of equality.

    Args:
      groups: name -> (x values, y values).
      x, y: labels of the axes.
    Returns:
      an `<svg>` element.
    """
    if not 1 <= len(groups) <= len(SERIES):
        raise ValueError(f"{len(groups)} groups in one figure: draw 1 to {len(SERIES)}")
    figure, axes = _axes(3.9, 2.9, legend=False, label=True)
    for (name, (xs, ys)), color, marker in zip(groups.items(), SERIES, MARKERS, strict=False):
        axes.plot(xs, ys, marker, color=color, markersize=4.5, label=name, alpha=0.9, markeredgewidth=0)
    low = max(axes.get_xlim()[0], axes.get_ylim()[0])
    high = min(axes.get_xlim()[1], axes.get_ylim()[1])
    if low < high:
        axes.plot([low, high], [low, high], color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return _svg(figure, alt)


def waveform(audio: np.ndarray, sample_rate: int, seconds: float, marks: Sequence[float], alt: str) -> str:
    """A recording's loudness over time from edge to edge, with times marked: made to lie under a strip of frames.

    Args:
      audio: float32 [samples].
      seconds: what the full width stands for.
      marks: times to mark, seconds.
    Returns:
      an `<svg>` element.
    """
    figure = Figure(figsize=(10, 1.15))
    axes = figure.add_axes((0, 0.24, 1, 0.76))
    _plain(axes)
    axes.spines["left"].set_visible(False)
    edges = np.linspace(0, max(round(seconds * sample_rate), 1), 601).astype(int)
    padded = np.zeros(edges[-1] + 1, np.float32)
    padded[: min(len(audio), len(padded))] = audio[: len(padded)]
    top = np.maximum.reduceat(padded, edges[:-1])
    bottom = np.minimum.reduceat(padded, edges[:-1])
    axes.fill_between((edges[:-1] + edges[1:]) / 2 / sample_rate, bottom, top, color=SERIES[0], linewidth=0.4)
    reach = max(float(np.abs(padded).max()), 1e-3) * 1.05
    axes.set(xlim=(0, seconds), ylim=(-reach, reach), yticks=[], xticks=list(marks))
    axes.set_xticklabels([f"{mark:.1f} s" for mark in marks])
    axes.grid(axis="x", color=MUTED, linewidth=0.6)
    return _svg(figure, alt)


# Drawing ==============================================================================================================


def _axes(width: float, height: float, legend: bool, label: bool):
    """A figure with one pair of axes; margins are fixed, in inches, so that neighbours on the page line up."""
    left, right, bottom, top = 0.6 if label else 0.42, 0.1, 0.4, 0.27 if legend else 0.08
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))
    _plain(axes)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    return figure, axes


def _plain(axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    axes.xaxis.label.set(color=MUTED, size=8)
    axes.yaxis.label.set(color=MUTED, size=8)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)


def _log_axis(axes, values: np.ndarray) -> None:
    axes.set_yscale("log")
    axes.set_ylim(values.min() / 1.3, values.max() * 1.3)
    decades = np.log10(values.max() / values.min())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.5 else (1,) if decades > 3 else (1, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", which="minor", length=0)


def _thinned(steps: Sequence[float], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_POINTS` points, means of neighbours: a long run stays light and no spike is picked by chance."""
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    if len(steps) <= MOST_POINTS:
        return steps, values
    bins = np.array_split(np.arange(len(steps)), MOST_POINTS)
    return np.array([steps[own].mean() for own in bins]), np.array([values[own].mean() for own in bins])


def _svg(figure: Figure, alt: str) -> str:
    """The figure as an `<svg>` element in the page's colours and font."""
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    buffer = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif", "legend.fontsize": 8}
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.S)
    prefix = f"f{hashlib.sha1((alt + text).encode()).hexdigest()[:8]}-"
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda match: match.group() if match[1] in used else "", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', lambda match: match.group() + prefix, text)
    text = re.sub(r"font: (?:[\w.]+ )?([\d.]+px) [^;\"]*", r"font-size: \1", text)  # the family is the page's
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    box = re.search(r'viewBox="[^"]*"', text).group()
    opening = f'<svg class="plot" role="img" aria-label="{html.escape(alt, quote=True)}" {box}'
    opening += ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return opening + text[text.index(">") + 1 :]
