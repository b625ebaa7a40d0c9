from dataclasses import dataclass
from typing import Annotated

import pytest
from omegaconf import OmegaConf

from src.checks import above, at_least, check, one_of, within
from src.command.cli import typed
from src.errors import UserError


@dataclass
class Settings:
    count: Annotated[int, at_least(1)]
    limit: Annotated[int | None, at_least(1).or_null("for all")]
    size: Annotated[int | str, at_least(1).or_auto()]
    decay: Annotated[float, at_least(0)]
    seconds: Annotated[float, above(0, "seconds")]
    share: Annotated[float, within("[0, 0.5)")]
    std: Annotated[float, within("(0, 1]")]
    seed: Annotated[int, within("[-2^63, 2^63)")]
    kind: Annotated[str, one_of(("big", "small"))]
    scale: float

    def __post_init__(self) -> None:
        check(self, "part.")


GOOD = {
    "count": 1,
    "limit": None,
    "size": "auto",
    "decay": 0,
    "seconds": 0.1,
    "share": 0,
    "std": 1,
    "seed": -(2**63),
    "kind": "big",
    "scale": -1.5,
}


def settings(**changes) -> Settings:
    return typed(Settings, OmegaConf.create(GOOD | changes))


def test_a_structured_config_keeps_its_types_beside_its_rules():
    assert settings() == Settings(**GOOD)
    assert isinstance(settings().share, float)
    assert settings(limit=3, size=8, seed=2**63 - 1, share=0.49).seed == 2**63 - 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("count", 0, "part.count=0: must be at least 1"),
        ("limit", 0, "part.limit=0: must be at least 1, or null for all"),
        ("size", 0, "part.size=0: must be at least 1, or auto"),
        ("size", "much", "part.size=much: must be at least 1, or auto"),
        ("decay", -1.0, "part.decay=-1.0: must be 0 or more"),
        ("decay", float("inf"), "part.decay=inf: must be 0 or more, and finite"),
        ("decay", float("nan"), "part.decay=nan: must be 0 or more, and finite"),
        (
            "decay",
            1e39,
            "part.decay=1e+39: must be 0 or more, and of a size between 1e-30 and 1e+30",
        ),
        (
            "seconds",
            1e-50,
            "part.seconds=1e-50: must be above 0 seconds, and of a size between 1e-30 and 1e+30",
        ),
        (
            "scale",
            -1e300,
            "part.scale=-1e+300: must be a number, and of a size between 1e-30 and 1e+30",
        ),
        ("seconds", 0.0, "part.seconds=0.0: must be above 0 seconds"),
        ("share", 0.5, "part.share=0.5: must be in [0, 0.5)"),
        ("share", -0.1, "part.share=-0.1: must be in [0, 0.5)"),
        ("std", 0.0, "part.std=0.0: must be in (0, 1]"),
        ("std", 1.1, "part.std=1.1: must be in (0, 1]"),
        ("seed", 2**63, f"part.seed={2**63}: must be in [-2^63, 2^63)"),
        ("seed", -(2**63) - 1, f"part.seed={-(2**63) - 1}: must be in [-2^63, 2^63)"),
        ("kind", "huge", "part.kind=huge: must be one of big, small"),
        ("scale", float("nan"), "part.scale=nan: must be a number, and finite"),
        ("scale", float("-inf"), "part.scale=-inf: must be a number, and finite"),
    ],
)
def test_a_value_out_of_range_is_one_line_with_key_value_and_rule(key, value, message):
    with pytest.raises(UserError) as error:
        Settings(**GOOD | {key: value})
    assert str(error.value) == message


def test_null_where_the_type_has_none_is_refused_before_any_rule():
    with pytest.raises(Exception, match="Incompatible value 'None' for field of type 'int'"):
        settings(count=None)


def test_a_field_that_a_subclass_types_anew_keeps_its_rule():
    @dataclass
    class Wider(Settings):
        count: int | str

    with pytest.raises(UserError, match="count=0: must be at least 1"):
        Wider(**GOOD | {"count": 0})
