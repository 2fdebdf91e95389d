import pytest

from kubeapi import bodies
from kubeapi.errors import ApiError


def test_json_is_bounded_in_depth_and_size() -> None:  # API-15
    assert bodies.decode_json(b'{"a":[1]}') == {"a": [1]}
    for deep in (b"[" * 101 + b"]" * 101, b"[" * 100_000):
        with pytest.raises(ApiError, match=r"nested deeper than 100|not valid JSON"):
            bodies.decode_json(deep)
    wide = b"[" + b"[]," * 1000 + b"[]]"
    assert len(bodies.decode_json(wide)) == 1001
    with pytest.raises(ApiError, match="too large"):
        bodies.decode_json(b" " * (bodies.MAX_OBJECT_BYTES + 1))


def test_duplicate_fields_are_found_with_their_paths() -> None:
    raw = b'{"spec":{"a":1,"a":2,"b":[{"c":1,"c":2}]},"kind":"x"}'
    assert bodies.duplicate_fields(raw) == ("spec.a", "spec.b[0].c")
    assert bodies.duplicate_fields(b'{"a":1}') == ()


def test_text_that_is_no_utf8_is_a_400() -> None:
    for raw in (b'{"a":"\xff"}', b'{"\xc3":1}', b"\xff\xfe{}"):
        with pytest.raises(ApiError, match="not valid JSON"):
            bodies.decode_json(raw)
        assert bodies.duplicate_fields(raw) == ()
    with pytest.raises(ApiError, match="not valid YAML"):
        bodies.decode_yaml(b"a: \xff")


def test_yaml_reads_as_json_and_refuses_aliases() -> None:
    assert bodies.decode_yaml(b"a: {b: [1, x]}\nd: 2026-01-02") == {"a": {"b": [1, "x"]}, "d": "2026-01-02"}
    with pytest.raises(ApiError, match="aliases"):
        bodies.decode_yaml(b"a: &x [1]\nb: *x")
    with pytest.raises(ApiError, match="not valid YAML"):
        bodies.decode_yaml(b"a: [")
    with pytest.raises(ApiError, match="not valid YAML"):
        bodies.decode_yaml(b"!!python/object:os.system {}")
