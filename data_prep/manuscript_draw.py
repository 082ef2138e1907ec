"""How figures of a manuscript are drawn: their width, letters and stamps, dots with intervals on lines."""

from data_prep import climate_figures, pictures
from data_prep.report_blocks import stamps
from data_prep.report_run import number

SMALL = 7  # points: ticks, legends, stamps; all else has figure()'s 8
MOST_LINES = 40  # of a figure of intervals
FLOOR = {"color": "#888888", "linestyle": ":", "linewidth": 1}
FLOOR_WORDS = "all ground marked as snow"


class Nothing(Exception):
    """A figure that the run has no numbers for; the message is why."""


def begin(width: float, height: float, *steps: dict):
    """An empty figure with its stamps in a corner."""
    fig = pictures.figure(width, height)
    import matplotlib.pyplot as plt

    plt.rcParams.update({"pdf.fonttype": 42, "xtick.labelsize": SMALL, "ytick.labelsize": SMALL,
                         "legend.fontsize": SMALL, "legend.frameon": False})  # fmt: skip
    said = list(dict.fromkeys(name for step in steps for name in stamps(step)))
    if said:
        fig.suptitle(", ".join(said), x=0.995, ha="right", fontsize=SMALL, style="italic", color="#555555")
    return fig


def save(fig, path) -> None:
    """path.pdf and path.png at 300 dpi, exactly as wide as they were begun."""
    climate_figures.save(fig, path)


def cut(words: str, letters: int = 34) -> str:
    return words if len(words) <= letters else words[: letters - 1] + "…"


# ---- intervals ---------------------------------------------------------------------------------------------


def bars(axes, places, rows, names, look: dict, label: str) -> None:
    """Dots with their intervals at heights `places`; names: estimate, low, high. No value, no dot."""
    told = [(y, [number(row, name) for name in names]) for y, row in zip(places, rows, strict=True)]
    for y, (value, low, high) in told:
        if value is not None and low is not None and high is not None:
            axes.plot(
                [low, high], [y, y], color=look["color"], linewidth=1.1, solid_capstyle="butt", zorder=2
            )
    told = [(value[0], y) for y, value in told if value[0] is not None]
    axes.plot([x for x, _ in told], [y for _, y in told], linestyle="none", markersize=4, label=label,
        zorder=3,
              **{"markeredgewidth": 0.9, "markerfacecolor": look["color"], **look})  # fmt: skip


def rows_down(axes, labels: list[str], breaks=()) -> None:
    """Labels of lines from the top down, with a rule before the lines in `breaks`."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.5)
    axes.set_axisbelow(True)
    for place in breaks:
        axes.axhline(place - 0.5, color="#999999", linewidth=0.5)


def triple(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


def looks(count: int) -> list[dict]:
    colours, marks = pictures.METHOD_COLOURS, pictures.METHOD_MARKERS
    return [{"color": colours[k % 6], "marker": marks[k % 7]} for k in range(count)]
