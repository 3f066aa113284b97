"""In which settings runs differ: setting by setting, and as a table with a column an arm.

What this gives up: settings that only one kind of stage has are a dash for the others, though nothing was chosen there.
"""

from collections.abc import Sequence

from mixcpt.compare import Arm, Row, arm_of
from mixcpt.config import MixtureConfig
from mixcpt.curves import title_of
from mixcpt.plotting import Table
from mixcpt.presets import OPTIONS, value_words
from mixcpt.runs import Run
from mixcpt.settings import Config
from mixcpt.stamps import Kept

SAME_SETTINGS = "They differ in no setting, not even in their seeds."


def config_diff(runs: Sequence[Run]) -> list[Row]:
    """The settings in which the runs differ, seeds included: `setting` (dotted), `part` and `label` as a form shows
    them, and `values`, as text by run id. Sources are matched by name, and their shares are those of the whole."""
    settings = {run.id: _settings_of(run) for run in runs}
    known = {setting: words for own in settings.values() for setting, (words, _) in own.items()}
    rows = []
    for setting, (part, label) in known.items():
        values = {id: own[setting][1] if setting in own else "–" for id, own in settings.items()}
        if len(set(values.values())) > 1:
            rows.append({"setting": setting, "part": part, "label": label, "values": values})
    return rows


_Settings = dict[str, tuple[tuple[str, str], str]]
_READ: Kept[_Settings] = Kept()


def _settings_of(run: Run) -> _Settings:
    path = run.folder / "config.yaml"
    return _READ.get(path, [str(path)], lambda: _settings(run.config))


def _settings(config: Config, path: str = "", part: str = "Run") -> _Settings:
    """Every setting below `config`: dotted name to ((part, label), value as text)."""
    found: _Settings = {}
    fields = type(config).model_fields
    for name, value in config:
        extra = fields[name].json_schema_extra
        label, unit = (str(extra["label"]), str(extra["unit"])) if isinstance(extra, dict) else (name, "")
        if isinstance(value, Config):
            found |= _settings(value, f"{path}{name}.", label)
        elif isinstance(config, MixtureConfig) and name == "sources":
            found |= _shares(config, f"{path}{name}", part)
        else:
            found[path + name] = ((part, f"{label} ({unit})" if unit else label), value_words("", value))
    return found


def _shares(mixture: MixtureConfig, path: str, part: str) -> _Settings:
    total = sum(source.share for source in mixture.sources)
    return {
        f"{path}[{source.source}]": (
            (part, f"Share of {source.source}"),
            ", ".join([f"{100 * source.share / total:.3g} %", *source.marks]),
        )
        for source in mixture.sources
    }


def settings_table(runs: Sequence[Run], rows: Sequence[Row]) -> Table:
    """`config_diff` with a column an arm, the values of its seeds joined; no lines when they differ in nothing."""
    arms: dict[Arm, list[Row]] = {}
    for row in rows:
        arms.setdefault(arm_of(row), []).append(row)
    lines = [
        [line["part"], line["label"], *(_joined(line["setting"], line["values"], group) for group in arms.values())]
        for line in config_diff(runs)
    ]
    return Table(["Part", "Setting", *(title_of(group[0]) for group in arms.values())], lines)


def _joined(setting: str, values: dict[str, str], group: Sequence[Row]) -> str:
    """In the words of the form, where it has others."""
    known = OPTIONS.get(setting, {})
    return ", ".join(dict.fromkeys(known.get(values[row["run"]], values[row["run"]]) for row in group))
