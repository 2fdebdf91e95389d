"""Settings: defaults, file, environment, --set; an unknown key names the nearest known one."""

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
import yaml

from proto.kit import settings
from proto.kit.errors import UsageError


class Api(msgspec.Struct, frozen=True):
    port: Annotated[int, msgspec.Meta(description="Port of the API.", ge=0, le=65535)] = 6443


class Example(msgspec.Struct, frozen=True):
    api: Api = msgspec.field(default_factory=Api)
    node: Annotated[str, msgspec.Meta(description="Name of the node.")] = ""
    verbose: bool = False
    wait_s: Annotated[float, msgspec.Meta(description="A time.")] = 1.0


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("api: {port: 1}\nnode: file\nverbose: true\n")

    got = settings.load(Example, file=file, env={"SKERRY_API__PORT": "2", "SKERRY_NODE": "env"}, sets=["api.port=3"])

    assert got == Example(api=Api(port=3), node="env", verbose=True)


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        (["api.prot=1"], r"unknown setting 'api.prot' in --set api.prot=1; the nearest known one is 'api.port'"),
        (["api.port"], r"--set api.port: write it as key=value"),
        (["api.port=many"], r"settings: api.port: expected `int`, got `str`"),
        (["api.port=70000"], r"settings: api.port: expected `int` <= 65535"),
        (["wait_s=-1"], r"settings: wait_s: -1.0 is no finite number from 0 on"),
        (["wait_s=.nan"], r"settings: wait_s: nan is no finite number"),
        (["wait_s=.inf"], r"settings: wait_s: inf is no finite number"),
        (["node=2020-13-45", "api.port=" + "[" * 5000], r"settings: api.port: expected `int`"),
    ],
)
def test_bad_input_gets_one_sentence(sets: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        settings.load(Example, env={}, sets=sets)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "is not YAML"),
        ("- 1", "top level must be a mapping"),
        ("nodes: x", "nearest known one is 'node'"),
        ("node: [1,\n", "in line 2, column 1"),
        ("a: " + "[" * 5000, "not YAML: it is nested too deeply"),
        ("node: 2020-13-45", "not YAML: month must be in 1..12"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)

    with pytest.raises(UsageError, match=sentence) as caught:
        settings.load(Example, file=file, env={})
    assert "c.yaml" in str(caught.value)


def test_what_is_printed_can_be_read_back(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(settings.to_yaml(Example(node="gw", api=Api(port=9))))

    assert settings.load(Example, file=file, env={}) == Example(node="gw", api=Api(port=9))
    assert yaml.safe_load(file.read_text())["api"] == {"port": 9}


def test_each_setting_is_described() -> None:
    docs = {d.key: d for d in settings.describe(Example)}

    assert docs["api.port"] == settings.Doc("api.port", "int", "6443", "Port of the API.")
