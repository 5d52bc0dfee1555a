"""Pipelines on the reference networks themselves, run where an engine would be: no bundle is needed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from anycost.errors import BundleError, InputError
from anycost.networks.registry import BY_NAME
from anycost.runtime.images import read_image, resize, to_input
from anycost.runtime.latents import as_images
from anycost.runtime.manifest import NetworkRecord
from anycost.runtime.masks import bounding_box, box, brush_strokes, central_box, paste
from anycost.runtime.pipelines.attributes import attributes, strongest
from anycost.runtime.pipelines.encode import encode
from anycost.runtime.pipelines.inpaint import inpaint
from anycost.runtime.pipelines.tag import read_tags, tag
from anycost.runtime.pipelines.translate import (
    read_style,
    style_dim,
    style_from_seed,
    style_of,
    translate_file,
    translate_image,
)

ROSES = {"size": 32, "num_down": 2, "channels": {4: 16, 8: 16, 16: 16, 32: 8}}


class Loaded:
    """What LoadedNetwork is to a pipeline: a record, and ``run`` with shapes checked after it."""

    def __init__(self, kind: str, labels=(), parts=None, name=None, **arguments):
        torch.manual_seed(0)
        self.net = BY_NAME[kind].make(**arguments).eval()
        name = name or f"my-{kind}"
        self.parts = {f"{name}.{part.name}" if part.name else name: part for part in BY_NAME[kind].parts(self.net)}
        ports = {
            called: [
                [{"name": port.name, "shape": port.shape, "values": port.values} for port in side]
                for side in (part.inputs, part.outputs)
            ]
            for called, part in self.parts.items()
        }
        self.record = NetworkRecord(
            name=name,
            kind=kind,
            arguments=arguments,
            labels=labels,
            source="random",
            source_sha256="0" * 64,
            parameters=1,
            weights="weights.safetensors",
            parts=[{"name": called, "inputs": i, "outputs": o, "macs": 0} for called, (i, o) in ports.items()],
        )
        self.seen, self.batches = {}, []

    def run(self, part, inputs):
        record = self.record.part(part)
        self.seen = inputs
        for port in record.inputs:
            assert inputs[port.name].shape[1:] == port.shape and inputs[port.name].dtype == np.float32
            if port.values != "normal":
                low = -1 if port.values == "image" else 0
                assert inputs[port.name].min() >= low and inputs[port.name].max() <= 1
        self.batches.append(len(inputs[record.inputs[0].name]))
        with torch.no_grad():
            given = [torch.from_numpy(np.array(inputs[port.name])) for port in record.inputs]
            made = self.parts[record.name].run(self.net, *given)
        made = made if isinstance(made, tuple) else (made,)
        self.said = outputs = {port.name: array.numpy() for port, array in zip(record.outputs, made, strict=True)}
        for port in record.outputs:
            assert outputs[port.name].shape[1:] == port.shape
        return outputs

    def direct(self, picture):
        """The network's own answer to one input, as arrays."""
        with torch.no_grad():
            made = self.net(torch.from_numpy(picture))
        return [one.numpy() for one in made] if isinstance(made, tuple) else made.numpy()


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads that wait for each other are slow beside another program, and these networks are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loaded(kind, **arguments):
    return pytest.fixture(scope="module")(lambda: Loaded(kind, **arguments))


encoder = loaded("encoder", n_style=4, style_dim=8)
predictor = loaded("attributes", attributes=3, labels=("Male", "Smiling", "Young"))
tagger = loaded("tagger", tags=5)
anywhere = loaded("context-encoder")
central = loaded("context-encoder-256", bottleneck=16)
roses = loaded("gans-n-roses", **ROSES)
cycle = loaded("cyclegan", features=2, blocks=1)
disco = loaded("discogan")


def picture(height=40, width=30, seed=0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


class TestEncode:
    def test_is_the_network_on_the_fitted_picture(self, encoder):
        image = picture(300, 260)
        code = encode(encoder, image)
        assert code.shape == (1, 4, 8) and code.dtype == np.float32
        np.testing.assert_array_equal(code, encoder.direct(to_input(image, 256)))
        assert np.abs(encode(encoder, image, "stretch") - code).max() > 0

    def test_pictures_of_any_mode_and_source_in_batches(self, encoder, tmp_path):
        gray, rgba = picture(seed=1)[..., 0], np.dstack([picture(), picture(seed=2)[..., 0]])
        Image.fromarray(rgba).save(tmp_path / "rgba.png")
        encoder.batches.clear()
        codes = encode(encoder, [gray, str(tmp_path / "rgba.png"), Image.fromarray(gray)], batch=2)
        assert codes.shape == (3, 4, 8) and encoder.batches == [2, 1]
        np.testing.assert_allclose(codes[2], codes[0], atol=1e-5)
        np.testing.assert_allclose(codes[1:2], encoder.direct(to_input(read_image(rgba), 256)), atol=1e-5)

    def test_an_array_of_pictures_is_a_list_of_them(self, encoder):
        assert encode(encoder, np.stack([picture(), picture(seed=1)])).shape == (2, 4, 8)

    def test_wrong_arguments(self, encoder, predictor, tmp_path):
        for images, message in (
            ([], "no pictures"),
            ([picture(), tmp_path / "none.png"], "picture 2 of 2: .*does not exist"),
            (5, "a int is no picture"),
            (tmp_path / "none.png", "does not exist"),
        ):
            with pytest.raises(InputError, match=message):
                encode(encoder, images)
        with pytest.raises(InputError, match="my-attributes is of kind attributes: give a network of kind encoder"):
            encode(predictor, picture())
        with pytest.raises(InputError, match="fit 'squash'"):
            encode(encoder, picture(), "squash")
        with pytest.raises(InputError, match=r"batch 0 is outside 1\.\.256"):
            encode(encoder, picture(), batch=0)


class TestAttributes:
    def test_softmax_of_the_two_logits_by_label(self, predictor):
        found = attributes(predictor, [picture(), picture(seed=1)])
        logits = predictor.direct(np.concatenate([to_input(picture(seed=i), 256) for i in (0, 1)]))
        expected = torch.softmax(torch.from_numpy(logits), -1)[..., 1].numpy()
        assert [list(scores) for scores in found] == [["Male", "Smiling", "Young"]] * 2
        np.testing.assert_allclose([list(scores.values()) for scores in found], expected, atol=1e-6)

    def test_labels_are_numbers_where_there_are_none_and_must_fit(self):
        port = SimpleNamespace(name="image", shape=(3, 8, 8), values="image")
        part = SimpleNamespace(inputs=(port,), outputs=(SimpleNamespace(name="logits", shape=(2, 2)),))
        record = SimpleNamespace(name="mine", kind="attributes", labels=(), part=lambda name: part)
        network = SimpleNamespace(
            record=record, run=lambda part, inputs: {"logits": np.float32([[[900, -900], [-900, 900]]])}
        )
        assert attributes(network, picture()) == [{"0": 0.0, "1": 1.0}]
        for labels in (("a",), ("a", "a")):
            record.labels = labels
            with pytest.raises(BundleError, match="1 different labels for 2 outputs"):
                attributes(network, picture())

    def test_strongest(self):
        scores = {"a": 0.5, "b": 0.9, "c": 0.1, "d": 0.9}
        assert strongest(scores) == [("b", 0.9), ("d", 0.9), ("a", 0.5)]
        assert strongest(scores, 0, 1) == [("b", 0.9)]
        for wrong in ({"threshold": float("nan")}, {"threshold": 1.5}, {"most": 0}):
            with pytest.raises(InputError):
                strongest(scores, **wrong)


class TestTag:
    def test_all_that_the_network_says(self, tagger):
        names = ("1girl", "#compass", "hat", "smile", "sky")
        (found,) = tag(tagger, picture(), 0, tags=names)
        np.testing.assert_array_equal(tagger.seen["image"], (to_input(picture(), 299, "pad") + 1) / 2)
        scores = [score for _, score in found]
        assert {name for name, _ in found} == set(names) and scores == sorted(scores, reverse=True)
        np.testing.assert_allclose([dict(found)[name] for name in names], tagger.said["probabilities"][0], atol=1e-6)

    def test_sorted_and_cut(self, tagger):
        network = SimpleNamespace(
            record=tagger.record, run=lambda part, inputs: {"probabilities": np.float32([[0.1, 0.75, 0, 1, 0.75]])}
        )
        assert tag(network, picture(), 0.5) == [[("3", 1.0), ("1", 0.75), ("4", 0.75)]]
        assert tag(network, picture(), 0, 1) == [[("3", 1.0)]]

    def test_wrong_arguments_are_told_before_anything_runs(self, tagger, encoder):
        tagger.batches.clear()
        for wrong in ({"threshold": 2}, {"most": 0}, {"tags": list("abcd")}, {"tags": list("aabcd")}):
            with pytest.raises(InputError):
                tag(tagger, picture(), **wrong)
        with pytest.raises(InputError, match="kind encoder: give a network of kind tagger"):
            tag(encoder, picture())
        assert tagger.batches == []

    def test_list_of_tags(self, tmp_path):
        path = tmp_path / "tags.txt"
        path.write_bytes(b"\xef\xbb\xbf1girl\r\n\n# a comment\n#\n  long hair \n#compass\n\xe7\x8c\xab")
        assert read_tags(path) == ("1girl", "long hair", "#compass", "猫")

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"a\n\nb\na\n", "line 4 of .* repeats the tag 'a' of line 1"),
            (b"a\nb\x1b[31m\n", r"line 2 of .* control character '\\x1b'"),
            (b"a\rb\n", r"line 1 of .* control character '\\r'"),
            ("a\u202eb".encode(), r"line 1 of .* control character '\\u202e'"),
            ("a\u2028b".encode(), r"line 1 of .* control character '\\u2028'"),
            (b"a\n\xff\n", "line 2 of .* is not UTF-8"),
            (b"# nothing\n\n", "holds no tag"),
        ],
    )
    def test_bad_lists(self, tmp_path, data, message):
        (tmp_path / "tags.txt").write_bytes(data)
        with pytest.raises(InputError, match=message) as error:
            read_tags(tmp_path / "tags.txt")
        assert "\n" not in str(error.value)

    def test_no_list(self, tmp_path):
        for path in (tmp_path, tmp_path / "none.txt", "a\0b"):
            with pytest.raises(InputError):
                read_tags(path)


def random_mask(height, width, kind, seed) -> np.ndarray:
    """Masks of every sort: a pixel, all but a pixel, a box anywhere, strokes, noise."""
    state = np.random.RandomState(seed)
    mask = np.zeros((height, width), bool)
    if kind in ("pixel", "rest"):
        mask[state.randint(height), state.randint(width)] = True
        return ~mask if kind == "rest" else mask
    if kind == "strokes":
        return brush_strokes(height, width, seed)
    if kind == "noise":
        mask = state.rand(height, width) < state.rand()
    else:
        top, left = state.randint(height), state.randint(width)
        mask[top : top + state.randint(1, height + 1), left : left + state.randint(1, width + 1)] = True
    mask[0, 0] |= not mask.any()
    mask[-1, -1] &= not mask.all()
    return mask


class Echo:
    """A context encoder that knows only what it was shown: cheap, for many sizes."""

    def __init__(self, of: Loaded):
        self.record, self.patch = of.record, of.net.patch

    def run(self, part, inputs):
        seen = self.seen = inputs["image"]
        assert seen.shape == (1, *self.record.part().inputs[0].shape) and seen.dtype == np.float32
        assert np.abs(seen).max() <= 1
        edge = (seen.shape[2] - self.patch) // 2
        return {"patch": -seen[..., edge : edge + self.patch, edge : edge + self.patch]}


class Ramp(Echo):
    """A context encoder that goes on with the plane through the pixels left and above of the hidden half."""

    def run(self, part, inputs):
        super().run(part, inputs)
        y, x = np.mgrid[0:256, 0:256]
        known = np.ones((256, 256), bool)
        known[64:192, 64:192] = False
        known[:30] = known[226:] = known[:, :30] = known[:, 226:] = False  # what may be mirrored
        seen = self.seen[0, 0]
        axes = np.stack([y, x, np.ones_like(x)], -1).astype(float)
        plane = np.linalg.lstsq(axes[known], seen[known], rcond=None)[0]
        made = (axes @ plane)[64:192, 64:192]
        return {"patch": np.repeat(made[None, None], 3, 1).astype(np.float32)}


@pytest.fixture(scope="module", params=["context-encoder", "context-encoder-256"])
def filler(request, anywhere, central):
    return anywhere if request.param == "context-encoder" else central


class TestInpaint:
    def test_a_square_of_the_networks_size_is_the_networks_own_case(self, filler):
        size, patch = filler.net.size, filler.net.patch
        image, mask = picture(size, size), central_box(size, size)
        masked = to_input(image, size)
        masked[..., mask] = 0.25
        made = as_images(filler.direct(masked))[0]
        filled = image.copy()
        edge = (size - patch) // 2
        filled[edge : edge + patch, edge : edge + patch] = made
        np.testing.assert_array_equal(inpaint(filler, image, mask, 0.25), filled)

    def test_the_patch_is_brought_to_the_box(self, anywhere):
        image, mask = picture(128, 128), box(128, 128, (5, 90, 17, 38))
        masked = to_input(image, 128)
        masked[..., mask] = 0
        filled = image.copy()
        filled[90:128, 5:22] = resize(as_images(anywhere.direct(masked))[0], (38, 17))
        np.testing.assert_array_equal(inpaint(anywhere, image, mask), filled)

    def test_free_forms_lie_within_their_box(self, anywhere):
        image, mask = picture(128, 128), brush_strokes(128, 128, 3)
        x, y, width, height = bounding_box(mask)
        masked = to_input(image, 128)
        masked[..., mask] = 0
        filled = image.copy()
        filled[y : y + height, x : x + width] = resize(as_images(anywhere.direct(masked))[0], (height, width))
        np.testing.assert_array_equal(inpaint(anywhere, image, mask), paste(image, filled, mask))

    def test_nothing_of_the_hole_is_looked_at(self, filler):
        mask = brush_strokes(90, 120, 1)
        image = picture(90, 120)
        other = paste(image, np.full_like(image, 255), mask)
        result = inpaint(filler, image, mask)
        np.testing.assert_array_equal(result, inpaint(filler, other, mask))
        np.testing.assert_array_equal(result[~mask], image[~mask])
        assert (result[mask] != image[mask]).any()

    @pytest.mark.parametrize("corner", [(440, 200), (0, 0), (470, 130), (250, 130)])
    def test_the_middle_is_hidden_wherever_the_hole_is(self, central, corner):
        echo, image = Echo(central), np.full((300, 500, 3), 200, np.uint8)
        mask = box(300, 500, (*corner, 20, 40))
        inpaint(echo, image, mask, -1.0)
        hidden = (echo.seen == -1).all((0, 1))
        assert hidden[64:192, 64:192].all()
        if corner in ((440, 200), (250, 130)):  # nearer to a border, the hole itself is mirrored too
            assert hidden.sum() == 128 * 128

    def test_the_patch_lies_where_the_network_saw_its_middle(self, central):
        """A network that gives the ramp of its own middle fills every hole with the picture's own ramp."""
        ramp = np.add.outer(np.arange(300) // 3, np.arange(500) // 4).astype(np.uint8)
        image = np.repeat(ramp[..., None], 3, 2)
        for corner, size in (((250, 130), 20), ((40, 150), 40), ((430, 240), 25), ((100, 60), 160)):
            mask, network = box(300, 500, (*corner, size, size)), Ramp(central)
            result = inpaint(network, image, mask)
            assert np.abs(result.astype(int) - image)[mask].max() <= 3

    def test_pictures_of_other_modes_and_files(self, anywhere, tmp_path):
        mask = box(40, 30, (0, 0, 9, 40))
        rgba = np.dstack([picture(), picture(seed=2)[..., 0]])
        Image.fromarray(rgba).save(tmp_path / "rgba.png")
        Image.fromarray(rgba[..., 0]).save(tmp_path / "gray.png")
        for name in ("rgba.png", "gray.png"):
            seen = read_image(tmp_path / name)
            result = inpaint(anywhere, tmp_path / name, mask)
            assert result.dtype == np.uint8 and result.shape == (40, 30, 3)
            np.testing.assert_array_equal(result[~mask], seen[~mask])

    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.integers(8, 300), st.integers(8, 300), st.sampled_from(["pixel", "rest", "box", "noise"]), st.integers(0, 99)
    )
    def test_any_geometry(self, filler, height, width, kind, seed):
        self.check(filler, height, width, random_mask(height, width, kind, seed), seed)

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.integers(1, 300),
        st.integers(2, 300),
        st.sampled_from(["pixel", "rest", "box", "noise", "strokes"]),
        st.integers(0, 9999),
        st.sampled_from([0.0, 1.0, -1.0, 0.3]),
    )
    def test_any_geometry_of_a_cheap_network(self, filler, height, width, kind, seed, constant):
        mask = random_mask(height, width, kind, seed)
        self.check(Echo(filler), height, width, mask, seed, constant)

    def check(self, network, height, width, mask, seed, constant=0.0):
        image = picture(height, width, seed)
        before = image.copy()
        result = inpaint(network, image, mask, constant)
        assert result.shape == image.shape and result.dtype == np.uint8
        np.testing.assert_array_equal(result[~mask], image[~mask])
        np.testing.assert_array_equal(image, before)

    def test_very_long_pictures(self, filler):
        for shape in ((1, 20000), (6000, 3)):
            mask = np.ones(shape, bool)
            mask[0, 0] = False
            assert inpaint(Echo(filler), picture(*shape), mask).shape == (*shape, 3)

    def test_wrong_arguments(self, anywhere, encoder):
        image, mask = picture(), box(40, 30, (1, 1, 5, 5))
        for wrong, message in (
            (mask[:30], r"mask has shape \[30, 30\]: the picture takes \[40, 30\]"),
            (mask.astype(np.uint8), "uint8: give a bool array"),
            (mask.tolist(), "list: give a bool array"),
            (~(mask | True), "marks nothing"),
            (mask | True, "leaves nothing"),
        ):
            with pytest.raises(InputError, match=message):
                inpaint(anywhere, image, wrong)
        for constant in (2, float("nan")):
            with pytest.raises(InputError, match=r"outside -1\.\.1"):
                inpaint(anywhere, image, mask, constant)
        with pytest.raises(InputError, match="is of kind encoder: give a network of kind context-encoder or context"):
            inpaint(encoder, image, mask)


class TestStyles:
    def test_equal_for_equal_seeds(self):
        np.testing.assert_array_equal(style_from_seed(7), style_from_seed([3, 7])[1:])
        np.testing.assert_array_equal(style_from_seed(7)[0], np.float32(np.random.RandomState(7).standard_normal(8)))
        with pytest.raises(InputError, match="seed -1"):
            style_from_seed(-1)

    def test_files(self, tmp_path):
        styles = style_from_seed([1, 2])
        np.save(tmp_path / "two.npy", styles.astype(np.float64))
        np.save(tmp_path / "one.npy", styles[0])
        save_file({"style": styles}, tmp_path / "two.safetensors")
        for name in ("two.npy", "two.safetensors"):
            np.testing.assert_array_equal(read_style(tmp_path / name), styles)
        assert read_style(tmp_path / "one.npy", 8).shape == (1, 8)

    def test_bad_files(self, tmp_path):
        def written(name, array):
            np.save(tmp_path / name, array, allow_pickle=True)
            return tmp_path / name

        save_file({"w": np.zeros(8, np.float32)}, tmp_path / "other.safetensors")
        (tmp_path / "text.npy").write_bytes(b"hello")
        (tmp_path / "empty.npy").write_bytes(b"")
        huge = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 8), }"
        (tmp_path / "huge.npy").write_bytes(huge.ljust(127) + b"\n")
        for path, message in (
            (written("nan.npy", np.full(8, np.nan)), "value nan"),
            (written("far.npy", np.full(8, 1e6)), "value 1e\\+06"),
            (written("wide.npy", np.zeros((2, 9))), r"\[2, 9\]: give numbers of shape \[8\]"),
            (written("none.npy", np.zeros((0, 8))), "0 rows|no array"),
            (written("objects.npy", np.array([{}] * 8, object)), "no array of numbers"),
            (written("words.npy", np.array(["a"] * 8)), "give numbers"),
            (tmp_path / "other.safetensors", "no tensor named style: it has 'w'"),
            (tmp_path / "text.npy", "neither .npy nor safetensors"),
            (tmp_path / "empty.npy", "neither .npy nor safetensors"),
            (tmp_path / "huge.npy", "no array of numbers"),
            (tmp_path / "missing.npy", "does not exist"),
            (tmp_path, "cannot be read"),
        ):
            with pytest.raises(InputError, match=message) as error:
                read_style(path)
            assert "\n" not in str(error.value)


class TestTranslate:
    def test_own_style_is_the_network_itself(self, roses):
        image = picture(50, 40)
        made = translate_image(roses, image)
        translated, _, own = roses.direct(to_input(image, 32))
        np.testing.assert_array_equal(made, as_images(translated))
        assert made.shape == (1, 32, 32, 3) and style_dim(roses) == 8
        np.testing.assert_array_equal(style_of(roses, image), own)
        np.testing.assert_array_equal(translate_image(roses, image, style_of(roses, image)), made)

    def test_one_content_in_many_styles(self, roses):
        image, styles = picture(), style_from_seed([1, 2, 1, 3, 4])
        roses.batches.clear()
        made = translate_image(roses, image, styles, batch=2)
        assert roses.batches == [1, 2, 2, 1]  # encoded once
        np.testing.assert_array_equal(made[0], made[2])
        assert np.abs(made[0].astype(int) - made[1]).max() > 0
        np.testing.assert_array_equal(translate_image(roses, image, styles[1]), made[1:2])

    def test_kinds_without_styles(self, cycle, disco):
        image = picture()
        np.testing.assert_array_equal(translate_image(cycle, image), as_images(cycle.direct(to_input(image, 256))))
        made = translate_image(disco, Image.fromarray(image).convert("LA"))
        gray = read_image(Image.fromarray(image).convert("LA"))
        expected = disco.direct((to_input(gray, 64) + 1) / 2)
        np.testing.assert_allclose(made[0], expected[0].transpose(1, 2, 0) * 255, atol=0.51)
        assert style_dim(cycle) == 0

    def test_wrong_arguments(self, roses, cycle, encoder):
        for call, message in (
            (lambda: translate_image(cycle, picture(), style_from_seed(0)), "kind cyclegan has no styles"),
            (lambda: translate_image(roses, picture(), np.zeros(7)), r"\[7\]: give numbers of shape \[8\]"),
            (lambda: translate_image(roses, picture(), "warm"), "give numbers"),
            (lambda: translate_image(roses, picture(), np.full(8, np.nan)), "value nan"),
            (lambda: translate_image(roses, picture(), fit="fill"), "fit 'fill'"),
            (lambda: translate_image(roses, picture(), batch=0), "batch 0"),
            (lambda: translate_image(encoder, picture()), "kind encoder: give a network of kind gans-n-roses or"),
            (lambda: style_of(cycle, picture()), "kind cyclegan: give a network of kind gans-n-roses"),
            (lambda: translate_file(roses, "a.mp4", "b.mp4"), "one style: give it"),
            (lambda: translate_file(roses, "a.mp4", "b.mp4", style_from_seed([1, 2])), "2 rows: a video takes one"),
            (lambda: translate_file(roses, "a.mp4", "b.mp4", np.zeros(8), style_end=np.zeros((2, 8))), "style_end has"),
            (lambda: translate_file(cycle, "a.mp4", "b.mp4", np.zeros(8)), "no styles"),
            (lambda: translate_file(roses, "a.mp4", "b.mp4", np.zeros(8), fit="fill"), "fit 'fill'"),
            (lambda: translate_file(roses, "a.mp4", "b.mp4", np.zeros(8), batch=0), "batch 0"),
        ):
            with pytest.raises(InputError, match=message):
                call()


class TestVideo:
    """The frames that reach the encoder, without its losses; the codec has tests of its own."""

    @pytest.fixture
    def clip(self, tmp_path):
        av = pytest.importorskip("av")
        with av.open(str(tmp_path / "clip.mkv"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 48, 36, "yuv420p"
            for i in range(6):
                frame = av.VideoFrame.from_ndarray(np.full((36, 48, 3), 20 + 30 * i, np.uint8))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return tmp_path / "clip.mkv"

    @pytest.fixture
    def written(self, monkeypatch):
        """(key, source frames, translated frames) of the last job."""
        from anycost.runtime import video

        real, jobs = video.translate_video, []

        def spied(source, target, transform, key, **options):
            job = SimpleNamespace(key=key, source=[], frames=[])
            jobs.append(job)

            def spy(images, first):
                made = transform(images, first)
                job.source.extend(images)
                job.frames.extend(made)
                return made

            return real(source, target, spy, key, **options)

        monkeypatch.setattr(video, "translate_video", spied)
        return jobs

    def test_one_style_held(self, roses, clip, written, tmp_path):
        style, steps = style_from_seed(5), []
        assert translate_file(roses, clip, tmp_path / "o.mp4", style, progress=lambda *step: steps.append(step)) == 6
        for source, frame in zip(written[0].source, written[0].frames, strict=True):
            # Batches of another size may round differently by one.
            np.testing.assert_allclose(frame, translate_image(roses, source, style)[0].astype(int), atol=1)
        assert steps[-1] == ("", 6, 6)
        from anycost.runtime.video import probe

        info = probe(tmp_path / "o.mp4")
        assert (info.width, info.height) == (32, 32)

    def test_style_moves_on_a_line(self, roses, clip, written, tmp_path):
        start, end = style_from_seed(1), style_from_seed(2)
        translate_file(roses, clip, tmp_path / "o.mp4", start, style_end=end, batch=4)
        for i, (source, frame) in enumerate(zip(written[0].source, written[0].frames, strict=True)):
            expected = translate_image(roses, source, start + (end - start) * i / 5)[0]
            np.testing.assert_allclose(frame, expected.astype(int), atol=1)

    def test_size_of_the_source(self, roses, clip, written, tmp_path):
        style = style_from_seed(1)
        for fit in ("stretch", "pad", "crop"):
            translate_file(roses, clip, tmp_path / "o.mp4", style, fit=fit, keep_size=True)
            source, frame = written[-1].source[3], written[-1].frames[3]
            square = translate_image(roses, source, style, fit)[0]
            assert frame.shape == (36, 48, 3)
            if fit == "crop":
                np.testing.assert_array_equal(frame[:, :6], source[:, :6])
                np.testing.assert_array_equal(frame[:, 42:], source[:, 42:])
                frame, expected = frame[:, 6:42], resize(square, (36, 36))
            else:
                inner = square if fit == "stretch" else np.ascontiguousarray(square[4:28])
                expected = resize(inner, (36, 48))
            np.testing.assert_allclose(frame, expected.astype(int), atol=2)

    def test_without_styles(self, disco, clip, written, tmp_path):
        assert translate_file(disco, clip, tmp_path / "o.mp4") == 6
        np.testing.assert_allclose(written[0].frames[2], translate_image(disco, written[0].source[2])[0], atol=1)

    def test_the_key_is_of_the_whole_job(self, roses, clip, monkeypatch):
        from anycost.runtime import video

        keys = []
        monkeypatch.setattr(video, "translate_video", lambda s, t, f, key, **options: keys.append(key))
        one, two = style_from_seed(1), style_from_seed(2)
        other = Loaded("gans-n-roses", name="back", **ROSES)
        translate_file(roses, clip, "o.mp4", one)
        translate_file(roses, clip, "p.mp4", one.tolist(), batch=2)  # the batch is part of the job elsewhere
        assert keys[0] == keys[1]
        translate_file(other, clip, "o.mp4", one)
        translate_file(roses, clip, "o.mp4", two)
        translate_file(roses, clip, "o.mp4", one, style_end=two)
        translate_file(roses, clip, "o.mp4", one, fit="pad")
        translate_file(roses, clip, "o.mp4", one, keep_size=True)
        assert len(set(keys)) == 6
