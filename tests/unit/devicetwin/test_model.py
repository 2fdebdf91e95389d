"""What Device and DeviceModel objects say, read once; values; older versions; CRDs."""

from pathlib import Path
from typing import Any

import pytest

from devicetwin.crds import NAMES, load_crds
from devicetwin.model import model_key, read_device
from devicetwin.values import BadValue, check_type, plain, same
from devicetwin.versions import explain_v1alpha2

ROOT = Path(__file__).parents[3]


def device(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "d", "namespace": "ns", "uid": "u", "generation": 1}, "spec": spec}


def test_instance_config_keys_win_over_those_of_the_model() -> None:
    model = {
        "metadata": {"name": "m"},
        "spec": {
            "protocol": "modbus",
            "protocolConfigData": {"baud": 9600, "parity": "even"},
            "properties": [{"name": "p", "type": "INT", "visitors": {"configData": {"register": 1, "scale": 10}}}],
        },
    }
    obj = device(
        deviceModelRef={"name": "m"},
        protocol={"configData": {"baud": 19200}},
        properties=[{"name": "p", "visitors": {"configData": {"register": 7}}}],
    )

    spec = read_device(obj, model)

    assert spec.protocol == "modbus"
    assert spec.config == {"baud": 19200, "parity": "even"}
    assert spec.properties["p"].visitor == {"register": 7, "scale": 10}


def test_a_property_that_the_model_lacks_is_a_problem() -> None:
    """TWIN-13"""
    spec = read_device(device(properties=[{"name": "x"}]), {"metadata": {"name": "m"}, "spec": {"properties": []}})

    assert spec.problems() == {"x": "property x is not in the device model"}


def test_properties_of_the_model_that_the_device_leaves_out_are_there() -> None:
    spec = read_device(
        device(), {"metadata": {"name": "m"}, "spec": {"properties": [{"name": "x", "type": "BOOLEAN"}]}}
    )

    assert spec.properties["x"].type == "boolean"


def test_a_desired_value_of_a_read_only_property_is_a_problem() -> None:
    """TWIN-13"""
    model = {
        "metadata": {"name": "m"},
        "spec": {"properties": [{"name": "x", "type": "INT", "accessMode": "ReadOnly"}]},
    }

    spec = read_device(device(properties=[{"name": "x", "desired": {"value": "1"}}]), model)

    assert spec.properties["x"].desired is None
    assert "ReadOnly" in spec.problems()["x"]


@pytest.mark.parametrize(
    "obj",
    [
        {},
        {"metadata": None, "spec": None},
        {"metadata": {"name": "d"}, "spec": {"properties": "no", "protocol": 5, "deviceModelRef": []}},
        {"metadata": {"generation": "x"}, "spec": {"properties": [None, {"name": 3}, {"name": "a", "desired": "b"}]}},
    ],
)
def test_objects_of_any_shape_are_read_without_an_error(obj: dict[str, Any]) -> None:
    read_device(obj, obj)
    model_key(obj)


@pytest.mark.parametrize(
    ("kind", "left", "right", "equal"),
    [
        ("int", "1", "01", True),
        ("float", "1e2", "100.0", True),
        ("string", "1", "1.0", False),
        ("boolean", "true", "TRUE", False),
        ("float", "x", "1", False),
    ],
)
def test_numbers_are_compared_by_value_and_all_else_by_text(kind: str, left: str, right: str, equal: bool) -> None:
    assert same(kind, left, right) is equal


@pytest.mark.parametrize("value", ["9223372036854775808", "1.0", "", " 1", "0x10", "1_000", "\u0661"])
def test_an_int_is_64_bits_of_plain_digits(value: str) -> None:
    """TWIN-12"""
    with pytest.raises(BadValue):
        check_type("int", value)


@pytest.mark.parametrize(("number", "text"), [(1.0, "1"), (1.5, "1.5"), (1e20, "1e20"), (-0.25, "-0.25")])
def test_numbers_are_written_in_the_characters_that_a_twin_allows(number: float, text: str) -> None:
    assert plain(number) == text


def test_a_v1alpha2_device_is_told_what_to_change() -> None:
    document = {
        "apiVersion": "devices.kubeedge.io/v1alpha2",
        "kind": "Device",
        "spec": {"nodeSelector": {}, "propertyVisitors": [], "protocol": {"modbus": {}}},
        "status": {"twins": [{"propertyName": "t", "desired": {"value": "1"}}]},
    }

    text = explain_v1alpha2(document) or ""

    assert text.startswith(
        "devices.kubeedge.io/v1alpha2 documents are not accepted: write it as devices.kubeedge.io/v1beta1"
    )
    for part in ("spec.nodeName", "spec.properties[].visitors", "spec.properties[].desired", "protocolName"):
        assert part in text


def test_a_v1alpha2_shape_under_v1beta1_is_caught_before_pruning_hides_it() -> None:
    document = {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceModel",
        "spec": {"properties": [{"name": "t", "type": {"int": {"accessMode": "ReadOnly"}}}]},
    }

    assert "this is a v1alpha2 document" in (explain_v1alpha2(document) or "")


def test_a_v1beta1_document_is_fine() -> None:
    document = {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "spec": {"nodeName": "gw-1", "protocol": {"protocolName": "modbus"}},
    }

    assert explain_v1alpha2(document) is None


def test_the_crds_for_people_are_those_of_the_package() -> None:
    for name in NAMES:
        packaged = ROOT / "devicetwin" / "crds" / f"{name}.yaml"
        assert (ROOT / "deploy" / "crds" / f"{name}.yaml").read_bytes() == packaged.read_bytes()


def test_the_crds_serve_and_store_v1beta1_and_refuse_v1alpha2_with_a_sentence() -> None:
    for crd in load_crds():
        versions = {v["name"]: v for v in crd["spec"]["versions"]}
        assert versions["v1beta1"]["storage"]
        old = versions["v1alpha2"]
        [rule] = old["schema"]["openAPIV3Schema"]["x-kubernetes-validations"]
        assert (old["served"], old["storage"], rule["rule"]) == (True, False, "false")
        assert "v1beta1" in rule["message"]
