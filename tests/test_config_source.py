"""YAML → plain data with places: what is read, what is refused, and where."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from orchestrator.config.source import DEEPEST, LARGEST_FILE, dotted, read_file, read_text
from orchestrator.errors import ConfigError


def test_scalars_are_those_of_yaml_1_2() -> None:
    """Only true and false are booleans; elements such as Y and No are texts; 1e-4 is a number."""
    text = "a: [true, False, yes, no, on, Y, No, N, null, ~, 12, 012, 0x10, 0o17, 1_000, 1e-4, .5, 3., +1, '5', 12:30]"
    assert read_text(text).data == {
        "a": [
            *[True, False, "yes", "no", "on", "Y", "No", "N", None, None],
            *[12, 12, 16, 15, "1_000", 1e-4, 0.5, 3.0, 1, "5", "12:30"],
        ]
    }


def test_dates_stay_text() -> None:
    """A date is no number and no object: plug-ins get what was written."""
    assert read_text("a: 2026-03-01").data == {"a": "2026-03-01"}


def test_places_of_keys_and_values() -> None:
    """Each key and value knows its line and column; an absent part answers with what is around it."""
    source = read_text("# a comment\nspace:\n  use: box\n  list:\n    - x: 1\n    - {y: 2}\n", "f.yaml")
    assert source.keys[("space",)] == (2, 1)
    assert source.keys[("space", "use")] == (3, 3)
    assert source.values[("space", "use")] == (3, 8)
    assert source.line(("space", "list", 1, "y")) == 6
    assert source.line(("space", "absent", "deeper")) == 2
    assert source.line(()) == 2
    assert source.find(("space",), "y") == ("space", "list", 1, "y")
    assert source.find(("space",), "nothing") == ("space",)
    error = source.error("is wrong", ("space", "list", 1, "y"))
    assert str(error) == "f.yaml:6: space.list[1].y: is wrong"


def test_paths_are_written_as_people_read_them() -> None:
    """Lists are indexed in brackets."""
    assert dotted(("procedure", 0, "inputs", "time")) == "procedure[0].inputs.time"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: &x 2", 2, "anchor '&x'"),
        ("a: 1\nb: *x", 2, "alias '*x'"),
        ("a: 1\nb: !!python/name:os.system ''", 2, "plain data"),
        ("a: 1\n<<: {b: 2}", 2, "merge key"),
        ("a: 1\nb: 2\na: 3", 3, "given in line 1"),
        ("a: {b: 1, b: 2}", 1, "stands twice"),
        ("a: 1\n1: 2", 2, "write it in quotes"),
        ("a: 1\n? [x]\n: 2", 2, "a key must be a word"),
        ("a: [1, .inf]", 1, "no finite number"),
        ("a: NaN", 1, "no finite number"),
        ("a: 1e999", 1, "too large"),
        ("a: 1\n---\nb: 2", 2, "one"),
        ("%YAML 1.1\n---\na: yes", 2, "directives"),
        ("a: b: c", 1, "quotes"),
        ("a: @x", 1, "quotes"),
        ("a: 'x", 1, "not closed"),
        ("a:\n\t- 1", 2, "spaces"),
    ],
)
def test_refused(text: str, line: int, says: str) -> None:
    """What is no plain YAML is refused with its line and what to write instead."""
    with pytest.raises(ConfigError) as caught:
        read_text(text, "f.yaml")
    assert caught.value.line == line
    assert says in caught.value.message


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_depth_is_bounded_without_waiting(opening: str) -> None:
    """A file of ten thousand opening brackets is refused at once: the parser's own time grows with the square."""
    with pytest.raises(ConfigError, match="levels deep"):
        read_text(opening * 10_000)
    assert read_text(opening * (DEEPEST - 2) + "x" + {"[": "]", "{": "}"}.get(opening[0], "") * (DEEPEST - 2)).data


def test_alias_bomb_is_refused_before_it_unfolds() -> None:
    """Nine lines that would unfold to a billion values are refused at the first anchor."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError) as caught:
        read_text("\n".join(lines))
    assert caught.value.line == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing, too large or non-UTF-8 file is named with what to do."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_file(tmp_path / "absent.yaml")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (LARGEST_FILE + 1))
    with pytest.raises(ConfigError, match="larger than"):
        read_file(large)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("a: 1\nb: Größe".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8") as caught:
        read_file(latin)
    assert caught.value.line == 2


def test_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    """Editors on Windows write one; it is not part of the first key."""
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read_file(file).data == {"name": "x"}


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_is_read_or_refused_readably(text: str) -> None:
    """Whatever stands in a file, the only error is a ConfigError."""
    said = "f.yaml"
    try:
        read_text(text, "f.yaml")
    except ConfigError as error:
        said = str(error)
    assert said.startswith("f.yaml")


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abcXY ", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(content=st.dictionaries(st.text("abc", min_size=1, max_size=3), PLAIN, max_size=4))
def test_what_yaml_writes_is_read_back(content: dict[str, object]) -> None:
    """Plain data written by ruamel comes back as it was."""
    out = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.representer.ignore_aliases = lambda _: True  # type: ignore[method-assign]
    yaml.dump(content, out)
    assert read_text(out.getvalue()).data == (content or {})
