"""Draws the report of `empatheia check-data`: emotions, topics, profiles, lengths, and voice against face."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from empatheia_jax.data.corpus.check import DIFFERENCE_BINS, SECONDS_BINS, SYNC_TOLERANCE_SECONDS, WORDS_BINS  # noqa: E402
from empatheia_jax.data.emotions import AVATAR_EMOTIONS  # noqa: E402
from empatheia_jax.runtime.atomic import replacing  # noqa: E402

_COLOURS = {"train": "#4878a8", "validation": "#e0a040", "test": "#58a066"}


def plot_report(report: dict, path: Path) -> None:
    """Draw a report of `check.check_data` and save it as the image file `path`."""
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    splits = report["splits"]
    _plot_shares(axes[0, 0], "emotion of seven (share of Examples)", _emotion_counts(splits))
    _plot_shares(axes[0, 1], "topic (share of dialogues)", {name: part["topics"] for name, part in splits.items()})
    listeners: dict[str, dict[str, int]] = {name: {} for name in splits}
    for name, part in splits.items():
        for kind in ("age", "gender", "timbre"):
            listeners[name] |= {f"{kind}: {value}": n for value, n in part["listeners"].get(kind, {}).items()}
    dialogues = {name: part["usable_dialogues"] for name, part in splits.items()}
    _plot_shares(axes[0, 2], "listeners (share of dialogues)", listeners, totals=dialogues)
    _plot_histograms(
        axes[1, 0],
        "words an utterance",
        WORDS_BINS,
        {name: part["words"]["histogram"] for name, part in splits.items() if part["words"]},
    )
    seconds, differences = {}, {}
    for media in report["media"]:
        for modality, numbers in media.get("seconds", {}).items():
            if "histogram" in numbers:
                seconds[f"{'/'.join(media['splits'])} {modality}"] = numbers["histogram"]
        if "face_minus_voice" in media:
            differences["/".join(media["splits"])] = media["face_minus_voice"]["histogram"]
    _plot_histograms(axes[1, 1], "seconds an utterance", SECONDS_BINS, seconds)
    _plot_histograms(axes[1, 2], "face minus voice, ms", DIFFERENCE_BINS, differences, log=True)
    for side in (-1, 1):
        axes[1, 2].axvline(side * 1000 * SYNC_TOLERANCE_SECONDS, color="0.6", linestyle=":")
    figure.suptitle(report["path"])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", ncols=3, fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format=path.suffix.lstrip(".") or None)
    plt.close(figure)


def _emotion_counts(splits: dict) -> dict[str, dict[str, int]]:
    names = (*AVATAR_EMOTIONS, "unlabelled")
    return {
        split: {name: part["avatar_emotions"][name] for name in names if name in part["avatar_emotions"]}
        for split, part in splits.items()
    }


def _plot_shares(axis, title: str, counts: dict[str, dict[str, int]], totals: dict[str, int] | None = None) -> None:
    """Draw horizontal bars: a group for each label, in it a bar for each split.

    Args:
      axis: where to draw.
      title: title of the axis.
      counts: counts by label, by split.
      totals: what the counts are a share of, by split; None: the sum of the split's counts.
    """
    labels = list(dict.fromkeys(label for part in counts.values() for label in part))
    height = 0.8 / max(len(counts), 1)
    for number, (split, part) in enumerate(counts.items()):
        total = totals[split] if totals else sum(part.values())
        shares = [part.get(label, 0) / max(total, 1) for label in labels]
        axis.barh(np.arange(len(labels)) + number * height, shares, height, label=split, color=_COLOURS.get(split))
    axis.set_yticks(np.arange(len(labels)) + 0.4 - height / 2, labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_title(title)


def _plot_histograms(
    axis, title: str, edges: tuple[float, ...], counts: dict[str, list[int]], *, log: bool = False
) -> None:
    for name, bins in counts.items():
        axis.stairs(bins, edges, label=name, linewidth=1.5)
    axis.set_title(title)
    if log and counts:
        axis.set_yscale("symlog")
    if counts:
        axis.legend(fontsize=8)
    else:
        axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", color="0.5")
