import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anycost import open as open_bundle
from anycost.errors import BundleError
from anycost.runtime.bundle import sealed
from anycost.runtime.manifest import Manifest


@pytest.fixture
def bundle(tmp_path, tiny_bundle):
    """A copy that may be damaged."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def refusal(folder) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def edit(bundle, **changes):
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_changed_byte_in_any_file_is_found(bundle):
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        original = path.read_bytes()
        changed = bytearray(original)
        changed[len(changed) // 2] ^= 1
        path.write_bytes(bytes(changed))
        message = refusal(bundle)
        # A byte of the manifest may also break its form, which is told first.
        assert path.name in message and ("changed" in message or path.name == "manifest.json")
        path.write_bytes(original)
    open_bundle(bundle)


def test_a_missing_or_cut_file_is_named(bundle):
    path = bundle / "weights/generator.safetensors"
    original = path.read_bytes()
    path.write_bytes(original[:-1])
    assert "weights/generator.safetensors" in refusal(bundle) and "bytes" in refusal(bundle)
    path.unlink()
    assert "weights/generator.safetensors is missing" in refusal(bundle)


def test_folders_that_are_no_bundle(tmp_path, bundle):
    assert "not a folder" in refusal(tmp_path / "absent")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is empty" in refusal(empty)
    (empty / "notes.txt").write_text("x")
    assert "not a bundle" in refusal(empty)
    (bundle / "manifest.json").unlink()
    assert "unfinished build" in refusal(bundle)


def test_damaged_foreign_and_newer_manifests(bundle):
    edit(bundle, format_version=3)
    assert "version 3" in refusal(bundle) and "upgrade" in refusal(bundle)
    edit(bundle, format_version=1)
    assert "format version 1 and this program reads 2: build the bundle again" in refusal(bundle)
    edit(bundle, format_version=2, format="something-else")
    assert "not the manifest" in refusal(bundle)
    generator = json.loads((bundle / "manifest.json").read_text())["generator"]
    edit(bundle, format="anycost-bundle", generator=generator | {"subnets": []})
    assert "damaged at generator.subnets" in refusal(bundle)
    edit(bundle, generator=None)
    assert "names no network" in refusal(bundle)
    for text in ("", "{", "[1]", "[" * 100_000):
        (bundle / "manifest.json").write_text(text)
        refusal(bundle)


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/hostname", "engines/../../x", "a\\..\\b", "C:/x", "", ".", "a//b", "./a"]
)
def test_a_path_that_leaves_the_folder(bundle, path):
    manifest = json.loads((bundle / "manifest.json").read_text())
    record = manifest["files"]["weights/generator.safetensors"]
    edit(bundle, generator=manifest["generator"] | {"weights": path}, files=manifest["files"] | {path: record})
    assert "damaged at" in refusal(bundle)


def test_a_link_that_leaves_the_folder(bundle, tmp_path):
    outside = tmp_path / "outside.safetensors"
    shutil.move(bundle / "weights/generator.safetensors", outside)
    (bundle / "weights/generator.safetensors").symlink_to(outside)
    assert "link" in refusal(bundle)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(sorted(Manifest.model_fields)), value=json_values)
def test_any_value_in_any_field_is_read_or_refused(bundle, tiny_bundle, field, value):
    shutil.copy(tiny_bundle / "manifest.json", bundle / "manifest.json")
    edit(bundle, **{field: value})
    try:
        open_bundle(bundle)
    except BundleError as error:
        assert "\n" not in str(error)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 20_000), value=st.integers(0, 255))
def test_any_byte_of_the_manifest_is_read_or_refused(bundle, tiny_bundle, position, value):
    content = bytearray((tiny_bundle / "manifest.json").read_bytes())
    content[position % len(content)] = value
    (bundle / "manifest.json").write_bytes(bytes(content))
    try:
        open_bundle(bundle)
    except BundleError as error:
        assert "\n" not in str(error)


def test_the_manifest_survives_a_round_trip(tiny_bundle):
    text = (tiny_bundle / "manifest.json").read_text()
    assert sealed(Manifest.model_validate_json(text)).decode() == text


def test_a_changed_figure_of_the_manifest_is_found(bundle):
    """Such as the quality that the runtime ranks by, which no file's hash covers."""
    path = bundle / "manifest.json"
    values = json.loads(path.read_text())
    values["generator"]["subnets"][0]["distance"] = 0.0
    path.write_text(json.dumps(values))
    assert "changed" in refusal(bundle)


def test_engines_without_files_and_links_in_a_circle(bundle):
    values = json.loads((bundle / "manifest.json").read_text())
    first, *others = values["engines"]
    edit(bundle, engines=[first | {"files": {}}, *others])
    assert "has no files" in refusal(bundle)
    edit(bundle, engines=[first, first])
    assert "one name" in refusal(bundle)
    edit(bundle, engines=[first | {"folder": "e/" + "x" * 5000}, *others])
    assert "too long" in refusal(bundle)
    (bundle / "manifest.json").write_bytes(sealed(Manifest.model_validate(values)))
    open_bundle(bundle)
    path = bundle / "weights/generator.safetensors"
    path.unlink()
    path.symlink_to(path.name)
    assert "link" in refusal(bundle)
