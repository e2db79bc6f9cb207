"""matplotlib figures as inline SVG in the font and the colours of the page, light or dark.

Figures are drawn in placeholder colours, which are then replaced by the page's CSS variables; ids are made unique,
since all figures share one document. Sizes are chosen so that letters stay readable on a phone.
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
MAX_POINTS = 400


@dataclasses.dataclass
class Curve:
    """The values of one term over the steps, in training and on held-out dialogues."""

    name: str
    steps: Sequence[float] = ()
    values: Sequence[float] = ()
    held_out_steps: Sequence[float] = ()
    held_out_values: Sequence[float] = ()


def curves(lines: Sequence[Curve], alt: str, *, log: bool = False, share: bool = False) -> str:
    """Draw training curves over steps; held-out values are rings in the curve's colour.

    Args:
      lines: one to four curves.
      alt: text alternative.
      log: logarithmic scale, where all values are positive.
      share: values are shares, shown from 0 to 100 %.

    Returns:
      An `<svg>` element.

    Raises:
      ValueError: no curve, or more than four.
    """
    if not 1 <= len(lines) <= len(SERIES):
        raise ValueError(f"{len(lines)} curves in one figure: draw 1 to {len(SERIES)}")
    figure, axes = _axes(3.0, 2.1, legend=len(lines) > 1, label=False)
    scale = 100.0 if share else 1.0
    drawn = []
    for color, line in zip(SERIES, lines, strict=False):
        steps, values = _thin(line.steps, line.values)
        drawn += [*values, *line.held_out_values]
        marker = {"marker": ".", "markersize": 5} if len(steps) == 1 else {}
        axes.plot(steps, scale * values, color=color, linewidth=1.3, label=line.name, **marker)
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
    drawn = np.asarray(drawn, float)
    if log and np.all(drawn > 0) and drawn.max() > 3 * drawn.min():
        _log_axis(axes, drawn)
    elif share:
        axes.set_ylim(0, 103)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    elif np.all(drawn >= 0):
        axes.set_ylim(0, 1.08 * max(drawn.max(), 1e-12))
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
    """Draw points of one to four groups in different colours and shapes, with the line of equality.

    Args:
      groups: name -> (x values, y values).
      x: label of the x axis.
      y: label of the y axis.
      alt: text alternative.

    Returns:
      An `<svg>` element.

    Raises:
      ValueError: no group, or more than four.
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


def waveform(audio: np.ndarray, sample_rate: int, seconds: float, marks: Sequence[float], *, alt: str) -> str:
    """Draw a waveform from edge to edge, with times marked, to be placed under a strip of frames.

    Args:
      audio: float32 [samples].
      sample_rate: in Hz.
      seconds: duration that the full width stands for.
      marks: times to mark, in seconds.
      alt: text alternative.

    Returns:
      An `<svg>` element.
    """
    figure = Figure(figsize=(10, 1.15))
    axes = figure.add_axes((0, 0.24, 1, 0.76))
    _style_axes(axes)
    axes.spines["left"].set_visible(False)
    edges = np.linspace(0, max(round(seconds * sample_rate), 1), 601).astype(int)
    padded = np.zeros(edges[-1] + 1, np.float32)
    padded[: min(len(audio), len(padded))] = audio[: len(padded)]
    top = np.maximum.reduceat(padded, edges[:-1])
    bottom = np.minimum.reduceat(padded, edges[:-1])
    axes.fill_between((edges[:-1] + edges[1:]) / 2 / sample_rate, bottom, top, color=SERIES[0], linewidth=0.4)
    limit = max(float(np.abs(padded).max()), 1e-3) * 1.05
    axes.set(xlim=(0, seconds), ylim=(-limit, limit), yticks=[], xticks=list(marks))
    axes.set_xticklabels([f"{mark:.1f} s" for mark in marks])
    axes.grid(axis="x", color=MUTED, linewidth=0.6)
    return _svg(figure, alt)


# Drawing ==============================================================================================================


def _axes(width: float, height: float, legend: bool, label: bool):
    """Return a figure with one pair of axes; margins are fixed, in inches, so that neighbours on the page line up."""
    left, right, bottom, top = 0.6 if label else 0.42, 0.1, 0.4, 0.27 if legend else 0.08
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))
    _style_axes(axes)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    return figure, axes


def _style_axes(axes) -> None:
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


def _thin(steps: Sequence[float], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Average neighbours to at most `MAX_POINTS` points: the file stays small and no spike is picked by chance."""
    x, y = np.asarray(steps, float), np.asarray(values, float)
    if len(x) <= MAX_POINTS:
        return x, y
    bins = np.array_split(np.arange(len(x)), MAX_POINTS)
    return np.array([x[points].mean() for points in bins]), np.array([y[points].mean() for points in bins])


def _svg(figure: Figure, alt: str) -> str:
    """Return the figure as an `<svg>` element in the page's colours and font."""
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    buffer = io.StringIO()
    settings: dict = {
        "svg.fonttype": "none",
        "svg.hashsalt": "report",
        "font.family": "sans-serif",
        "legend.fontsize": 8,
    }
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
    box = re.findall(r'viewBox="[^"]*"', text)[0]
    opening = f'<svg class="plot" role="img" aria-label="{html.escape(alt, quote=True)}" {box}'
    opening += ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return opening + text[text.index(">") + 1 :]
