"""Draw docs/overview.png, the picture in README: ages with their interval, genders by certainty.

It shows what models/facenet estimates of data/test.tfrecords, which prepare.py writes.

example:
  python benchmarks/overview.py
"""

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from age_gender import paths  # noqa: E402
from age_gender.processes.tensorflow_import import import_tensorflow  # noqa: E402
from age_gender.report import measurement  # noqa: E402
from age_gender.report.plots import BLUE, GREY, ORANGE, draw_figure  # noqa: E402
from age_gender.scoring import model_choice  # noqa: E402

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def main() -> None:
    import_tensorflow()
    from age_gender.training import records

    faces = records.read(paths.TEST_RECORDS)
    scores = model_choice.load(paths.FACENET).score_by_name(faces.features)
    table = measurement.tabulate_faces(faces.age, faces.gender, faces.file_names, scores)

    def draw(ages: "Axes", genders: "Axes") -> None:
        draw_ages_with_interval(ages, table)
        draw_genders_by_certainty(genders, table)

    (ROOT / "docs" / "overview.png").write_bytes(draw_figure(draw, (10, 4), dpi=120, columns=2))


def draw_ages_with_interval(axes: "Axes", table: "pd.DataFrame") -> None:
    """Draw labelled over estimated ages, and the interval's mean ends over bins of five years."""
    bins = (table.estimate // 5).astype(int)  # the interval depends on the estimate
    ends = table.groupby(bins)[["estimate", "low", "high"]].mean()
    band = {"color": BLUE, "alpha": 0.15, "label": "90 % interval (mean)"}
    axes.fill_between(ends.estimate, ends.low, ends.high, **band)
    dots = {"s": 5, "color": BLUE, "alpha": 0.35, "linewidths": 0, "label": "a face"}
    axes.scatter(table.estimate, table.age, **dots)
    axes.plot([0, 100], [0, 100], color=ORANGE, linewidth=1.2, label="label = estimate")
    axes.set(xlim=(0, 100), ylim=(0, 105))
    axes.set(xlabel="estimated age, years", ylabel="age as labelled, years")
    axes.set_title(f"Age of {len(table):,} test faces", fontsize=12)
    axes.legend(loc="upper left")


def draw_genders_by_certainty(axes: "Axes", table: "pd.DataFrame") -> None:
    """Draw how often genders are right, over the probability of the gender that is printed."""
    # Bin the faces
    certainty = np.maximum(table.probability, 1 - table.probability)
    edges = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0])
    bins = len(edges) - 1
    bin_index = np.clip(np.searchsorted(edges, certainty, side="right") - 1, 0, bins - 1)
    right = 100 * table.is_gender_right.groupby(bin_index).mean().reindex(range(bins))
    counts = np.bincount(bin_index, minlength=bins)

    # Draw a bar for each bin, with its number of faces
    axes.bar(range(bins), right, color=BLUE, alpha=0.8)
    for bar, (percent, count) in enumerate(zip(right, counts, strict=True)):
        if count:
            axes.text(bar, percent + 1, f"{count:,}", ha="center", fontsize=9, color=GREY)
    names = [f"{100 * a:.0f}\u2013{100 * b:.0f}" for a, b in itertools.pairwise(edges)]
    axes.set_xticks(range(bins), names)
    axes.grid(axis="x", visible=False)
    axes.set(ylim=(0, 108), xlabel="probability of the gender that is printed, %")
    axes.set_ylabel("gender is as labelled, % of faces")
    axes.set_title("Gender by certainty, with numbers of faces", fontsize=12)


if __name__ == "__main__":
    main()
