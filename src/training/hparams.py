"""TensorBoard's tab HParams: a row a run, a column for each setting by which runs differ.

Written at the start, so that a killed run has its row; the figures are those that are logged
anyway. TensorBoard takes its columns from one run, whichever it finds first, and shows five at
first: so each run names all settings that it can, and marks those that should be seen.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from src.training.pruning import FindBetter

VISIBLE = 5  # columns that TensorBoard shows before anyone asks for more
# Seen where a run differs in little else.
USUAL = ("batch_size", "optimizer.learning_rate", "seed", "max_steps", "max_epochs")
# What a run in the same folder is likely to differ in.
LIKELY = (
    *("batch_size", "seed", "max_", "optimizer.", "lora.", "model.", "objective."),
    *("data.path", "data.name", "data.max_rows", "data.block_size", "data.supervise", "data.join"),
)
# No figure depends on them, so they tell runs apart only where they are swept.
APART = ("resume", "logger", "sample_prompts", "data.corpus_dir", "data.num_workers", "generation.")


Values = dict[str, float | bool | str]


@dataclass(frozen=True)
class Choices:
    """How the settings of a run came to be.

    Attributes:
        defaults: all settings of ``conf`` under dotted names, as they are if nobody says otherwise;
            None: unknown.
        swept: what the runs of a sweep differ in: key -> value.
        find_better: says after a validation why the run ends there, if others of its sweep are
            ahead.
    """

    defaults: Mapping[str, Any] | None = None
    swept: Mapping[str, Any] = field(default_factory=dict)
    find_better: FindBetter | None = None


@dataclass(frozen=True)
class Row:
    """The settings of a run, each under its dotted name.

    Attributes:
        settings: as they were decided.
        asked: as they were asked for: some are open, such as ``auto``.
        choices: how they came to be.
    """

    settings: Mapping[str, Any]
    asked: Mapping[str, Any]
    choices: Choices

    def default(self, key: str) -> Any:
        """Return the default of a setting; as it is, if that is unknown."""
        asked = self.asked.get(key)
        return asked if self.choices.defaults is None else self.choices.defaults.get(key, asked)

    @property
    def differing(self) -> list[str]:
        """What was asked for and is not the default."""
        return [key for key, value in self.asked.items() if value != self.default(key)]

    @property
    def values(self) -> Values:
        """What was swept or differs from the defaults, and the usual settings; seen first first."""
        usual = [key for key in USUAL if self.settings.get(key) is not None]
        differing = [
            key
            for key in self.differing
            if self.settings[key] is not None and not key.startswith(APART)
        ]
        others = [*usual, *differing] if self.choices.swept else [*differing, *usual]
        chosen = dict(self.choices.swept) | dict.fromkeys(others)
        return {key: plain(self.settings.get(key, value)) for key, value in chosen.items()}

    @property
    def others(self) -> Values:
        """The settings that another run may differ in."""
        names = [key for key in self.asked if key.startswith(LIKELY) and key not in self.values]
        return {key: plain(self.settings[key]) for key in names}


def plain(value: Any) -> float | bool | str:
    """Return a setting as a number, a switch or a text."""
    return value if isinstance(value, (bool, int, float, str)) else json.dumps(value, default=str)


def start_summaries(row: Row, figures: Sequence[str]) -> list[Summary]:
    """Return what makes a run's row; ``figures`` are the tags of those shown beside settings."""
    values = row.values
    visible = list(values)[: max(VISIBLE, len(row.choices.swept))]
    experiment = api_pb2.Experiment(
        hparam_infos=[
            api_pb2.HParamInfo(name=key, type=_type(value), differs=key in visible)
            for key, value in (values | row.others).items()
        ],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in figures],
    )
    return [_summary(metadata.EXPERIMENT_TAG, experiment=experiment), _start(values)]


def _start(values: Values) -> Summary:
    start = plugin_data_pb2.SessionStartInfo()
    for key, value in values.items():
        kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
        setattr(start.hparams[key], kind, value)
    return _summary(metadata.SESSION_START_INFO_TAG, session_start_info=start)


def write_refused(folder: Path, values: Mapping[str, Any]) -> None:
    """Give a run that ended before it had a file of points its row, of what was swept.

    It names no columns: those of its sweep's other runs count. If the run is begun again, its file
    takes the place of this one.
    """
    if values and not any(folder.glob("events.out.tfevents.*")):
        row = _start({key: plain(value) for key, value in values.items()})
        with suppress(OSError):  # the run has failed anyway, and its status says so
            writer = EventFileWriter(str(folder))
            writer.add_event(Event(wall_time=time.time(), summary=row))
            writer.close()


def end_summary() -> Summary:
    """Return what says that a run has come to its end."""
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    return _summary(metadata.SESSION_END_INFO_TAG, session_end_info=end)


def _type(value: float | bool | str) -> int:
    kinds = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    return kinds.get(type(value), api_pb2.DATA_TYPE_FLOAT64)


def _summary(tag: str, **content: Any) -> Summary:
    data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **content)
    plugin = SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString()
    )
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))])
