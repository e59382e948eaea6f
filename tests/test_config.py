"""Settings to objects: what is checked, how it is told, what is built."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from nas_cli.config import build, check
from nas_cli.config.composition import Request, compose
from nas_cli.config.preparation import quote
from nas_cli.config.settings import describe
from nas_cli.errors import ConfigError
from nas_cli.recipe import Recipe


class Sample(Recipe):
    """Has a setting of every type that a YAML may hold."""

    def __init__(
        self,
        *given: object,
        rate: Annotated[float, Field(gt=0, le=1)] = 0.5,
        count: Annotated[int, Field(ge=1)] | None = None,
        order: Literal["first", "second"] = "first",
        orders: tuple[Literal["first", "second"], ...] = (),
        betas: tuple[float, ...] = (0.5, 0.999),
        exact: bool = True,
        name: str = "",
    ) -> None:
        super().__init__()
        self.given = given
        self.settings = {
            "rate": rate,
            "count": count,
            "order": order,
            "orders": orders,
            "betas": betas,
            "exact": exact,
            "name": name,
        }


def node(**settings: object) -> DictConfig:
    return OmegaConf.create({"_target_": f"{__name__}.Sample", **settings})


def complaint(**settings: object) -> str:
    with pytest.raises(ConfigError) as raised:
        check(OmegaConf.create({"recipe": node(**settings)}))
    return str(raised.value)


def test_builds_the_class_that_target_names_with_its_settings() -> None:
    built = build(Recipe, node(rate=1, betas=[0.1, 0.2], count=None), "given")
    assert isinstance(built, Sample)
    assert built.given == ("given",)
    assert built.settings["rate"] == 1.0
    assert built.settings["betas"] == (0.1, 0.2)
    assert built.settings["order"] == "first"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"rate": "fast"}, "recipe.rate=fast: must be a number above 0 and at most 1."),
        ({"rate": True}, "recipe.rate=true: must be a number above 0 and at most 1."),
        ({"rate": 0}, "recipe.rate=0: must be a number above 0 and at most 1."),
        ({"rate": float("nan")}, "recipe.rate=NaN: must be a number above 0 and at most 1."),
        ({"rate": None}, "recipe.rate=null: must be a number above 0 and at most 1."),
        ({"count": "abc"}, "recipe.count=abc: must be a whole number at least 1, or null."),
        ({"count": True}, "recipe.count=true: must be a whole number at least 1, or null."),
        ({"count": 1.5}, "recipe.count=1.5: must be a whole number at least 1, or null."),
        ({"count": 0}, "recipe.count=0: must be a whole number at least 1, or null."),
        ({"order": "secnd"}, "recipe.order=secnd: must be one of first, second. Did you mean second?"),
        (
            {"orders": ["first", "secnd"]},
            'recipe.orders=["first", "secnd"]: must be a list (one of first, second each). '
            "Did you mean second?",
        ),
        ({"orders": "first"}, "recipe.orders=first: must be a list (one of first, second each)."),
        ({"betas": [1, "a"]}, 'recipe.betas=[1, "a"]: must be a list (a number each).'),
        ({"exact": 1}, "recipe.exact=1: must be true or false."),
        ({"name": 3}, "recipe.name=3: must be text."),
        ({"name": "???"}, "recipe.name= is needed: text."),
    ],
)
def test_a_wrong_value_is_told_with_its_key_and_what_is_allowed(
    settings: dict[str, object], expected: str
) -> None:
    assert complaint(**settings) == expected


def test_all_problems_come_in_one_list() -> None:
    text = complaint(rate=-1, count="abc", ordr="first")
    assert text.startswith("3 settings are wrong:\n")
    assert "recipe.rate=-1" in text
    assert "recipe.count=abc" in text
    assert "recipe.ordr: there is no such setting" in text
    assert "Did you mean recipe.order?" in text


def test_a_wrong_plain_setting_is_told() -> None:
    with pytest.raises(ConfigError, match="seed=-1: must be a whole number at least 0"):
        check(OmegaConf.create({"seed": -1}))
    with pytest.raises(ConfigError, match="newkey: there is no such setting"):
        check(OmegaConf.create({"newkey": 1}))


def test_an_interpolation_that_leads_nowhere_is_told() -> None:
    with pytest.raises(ConfigError, match=r"recipe\.rate: "):
        check(OmegaConf.create({"recipe": node(rate="${nowhere}")}))


@pytest.mark.parametrize(
    "target", ["os.system", "nas_cli.space.SearchSpace", "nas_cli.nowhere.Class", "print", 3]
)
def test_a_target_that_is_no_class_of_the_group_is_refused(target: object) -> None:
    assert "recipe._target_" in complaint(_target_=target)
    with pytest.raises(ConfigError, match=r"recipe\._target_"):
        build(Recipe, node(_target_=target))


def test_build_refuses_what_check_refuses() -> None:
    with pytest.raises(ConfigError, match=r"recipe\.rate=2"):
        build(Recipe, node(rate=2))


def test_what_is_allowed_is_described_in_words() -> None:
    assert (
        describe(Annotated[int, Field(ge=2, multiple_of=2)])
        == "a whole number at least 2 and a multiple of 2"
    )


@dataclass
class Part:
    share: Annotated[float, Field(gt=0)]
    kinds: tuple[Literal["a", "b"], ...] = ()


def test_the_entries_of_a_mapping_are_described() -> None:
    assert describe(tuple[Part, ...]) == (
        "a list ({share: a number above 0, kinds: a list (one of a, b each)} each)"
    )


@pytest.mark.parametrize(
    "text",
    [
        "a,b.json",
        "with space.json",
        "a=b.json",
        "it's.json",
        "back\\slash.json",
        "ends\\",
        "quote\\'s.json",
        "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0)], normal_concat=range(2, 6))",
        "|nor_conv_3x3~0|+|none~0|skip_connect~1|",
        "{braces}[brackets]",
    ],
)
def test_free_text_survives_the_override_grammar(text: str) -> None:
    request = Request("derive", (quote(f"run={text}"),))
    assert compose(request).run == text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run='a b'", "run='a b'"),
        ("genotype=null", "genotype=null"),
        ("dataset.path=${oc.env:HOME}", "dataset.path=${oc.env:HOME}"),
        ("dataset.path=a,b", "dataset.path='a,b'"),
        ("strategy=a,b", "strategy=a,b"),
    ],
)
def test_what_is_quoted_or_no_free_text_stays(override: str, expected: str) -> None:
    assert quote(override) == expected


def test_a_sweep_quotes_each_of_its_values() -> None:
    assert quote("genotype=a.json,b c.json", multirun=True) == "genotype='a.json','b c.json'"
