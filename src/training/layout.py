"""TensorBoard's tab Custom Scalars: the charts that answer how a run goes, on one screen."""

from collections.abc import Sequence

Charts = dict[str, list[str]]  # title -> regular expressions of what is drawn in it


def layout(figures: Sequence[str], sources: Sequence[str]) -> dict[str, Charts]:
    """Return the charts by the title of their group.

    Args:
        figures: of training and validation, such as ``loss``, by their names after the slash.
        sources: the labels of what the rows come from, if there are several.
    """
    learning = {f"{name}: train and val": [f"(train|val)/{name}$"] for name in figures}
    if len(sources) > 1:
        learning |= {
            f"{name} of val by source": [f"val/{name}/(?!by_position)"] for name in figures
        }
    return {
        "learning": learning,
        "optimizer": {
            "learning rate": ["lr$"],
            "gradient norm: mean and max": ["grad_norm(/max)?$"],
            "gradient norm: share of steps clipped": ["grad_norm/clipped_share$"],
        },
        "speed and memory": {
            "tokens per second": ["perf/tokens_per_second$"],
            "memory in GiB": ["perf/memory_gib$"],
            "tokens seen": ["tokens$"],
        },
    }
