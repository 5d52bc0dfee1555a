"""The commands for pictures, codes and checkpoints, as a user types them, on small networks with random weights."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import OTHERS

from anycost.editing.directions import Directions, save
from anycost.export.build import Plan, build
from anycost.networks.perceptual import Lpips
from anycost.networks.registry import KINDS
from anycost.weights.random_init import random_checkpoint, random_network
from anycost.weights.save import save as save_weights

TAGS = ["1girl", "hat", "smile", "tree"]


def told(result, *words: str) -> None:
    """One line, exit code 2, nothing on standard output."""
    code, out, err = result
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1, err
    assert all(word in err for word in words), err


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A tiny generator with directions, an encoder for it, an attribute predictor, a context encoder, two translators."""
    generator = random_checkpoint("tiny")
    arch = generator.arch
    roses = OTHERS["gans-n-roses"]
    networks = {
        "encoder": random_network("encoder", 0, n_style=arch.n_style, style_dim=arch.style_dim),
        "attributes": random_network("attributes", 0, attributes=3),
        "context-encoder": random_network("context-encoder"),
        "toon": random_network("gans-n-roses", 0, **roses),
        "photo": random_network("gans-n-roses", 1, **roses),
    }
    directions = Directions.of({"glasses": np.eye(64)[0], "hat": np.eye(64)[1]})
    plan = Plan("all", [arch.full()], ["onnxruntime"], networks=networks, directions=directions)
    folder = tmp_path_factory.mktemp("pictures") / "bundle"
    build(generator, plan, folder)
    return folder


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "me.png"
    rng = np.random.RandomState(0)
    Image.fromarray(rng.randint(0, 255, (90, 120, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    "command", ["edit", "project", "encode", "attributes", "tag", "inpaint", "translate", "convert", "blend"]
)
def test_help_shows_examples(anycost, command):
    code, out, _ = anycost(command, "--help")
    assert code == 0 and "Examples" in out and f"anycost {command}" in out


def test_inspect_and_verify_show_every_network(anycost, bundle):
    code, out, _ = anycost("inspect", bundle)
    assert code == 0 and "1@32/onnxruntime" in out and "toon.decode/onnxruntime" in out and "content 16x16x16" in out
    shown = json.loads(anycost("inspect", bundle, "--json")[1])
    assert len(shown["engines"]) == 1 + 3 + 4 and shown["networks"][0]["kind"] == "encoder"
    assert anycost("verify", bundle)[0] == 0
    code, out, _ = anycost("profile", bundle, "--json")
    assert code == 0 and {"encoder/onnxruntime", "photo.encode/onnxruntime"} <= set(json.loads(out)["engines"])


def test_edit(anycost, bundle, tmp_path):
    assert anycost("edit", bundle)[1].strip() == "glasses, hat"
    out = tmp_path / "out"
    done = anycost("edit", bundle, "--seed", "3-4", "--set", "glasses=60,hat=-20", "--rows", "0-5", "-o", out, "--json")
    assert done[0] == 0 and len(json.loads(done[1])["files"]) == 2
    anycost("generate", bundle, "--seed", "3", "-o", tmp_path / "plain")
    plain, edited = (np.asarray(Image.open(folder / "seed0003.png")) for folder in (tmp_path / "plain", out))
    assert (plain != edited).any()
    anycost("edit", bundle, "--seed", "3", "--set", "glasses=0", "-o", tmp_path / "same")
    assert np.array_equal(plain, np.asarray(Image.open(tmp_path / "same/seed0003.png")))
    assert anycost("edit", bundle, "--seed", "0-2", "--set", "hat=1", "--sheet", "-o", out)[0] == 0
    told(anycost("edit", bundle, "--set", "nose=10", "-o", out), "nose", "glasses, hat")
    told(anycost("edit", bundle, "--set", "hat=1000", "-o", out), "1000")
    told(anycost("edit", bundle, "--set", "hat=10", "--rows", "5-2", "-o", out), "5-2")
    told(anycost("edit", bundle, "--set", "hat=10", "--directions", tmp_path / "none.pt"), "none.pt")
    other = tmp_path / "other.safetensors"
    save(other, Directions.of({"beard": np.ones(64)}))
    assert anycost("edit", bundle, "--directions", other)[1].strip() == "beard"


def test_encode_then_edit_and_project(anycost, bundle, picture, tmp_path):
    code = tmp_path / "me.npy"
    assert anycost("encode", bundle, picture, picture, "-o", code)[0] == 0
    assert np.load(code).shape == (2, 8, 64)
    assert anycost("edit", bundle, "--w-plus", code, "--set", "hat=50", "-o", tmp_path / "out")[0] == 0
    assert anycost("generate", bundle, "--w-plus", code, "-o", tmp_path / "plain", "--json")[0] == 0
    told(anycost("edit", bundle, "--w-plus", code), "--set")
    one = tmp_path / "one.npy"
    done = anycost("project", bundle, picture, "-o", one, "--steps", "3", "--picture", tmp_path / "p.png", "--json")
    assert done[0] == 0 and json.loads(done[1])["psnr_db"] > 0 and Image.open(tmp_path / "p.png").size == (32, 32)
    assert anycost("project", bundle, picture, "-o", one, "--steps", "2", "--consistent", "--start", one)[0] == 0
    lpips = Lpips()
    torch.save({k: v for k, v in lpips.state_dict().items() if k.startswith("features.")}, tmp_path / "vgg16.pth")
    torch.save({k: v for k, v in lpips.state_dict().items() if k.startswith("lin")}, tmp_path / "heads.pth")
    files = (tmp_path / "vgg16.pth", tmp_path / "heads.pth")
    assert anycost("project", bundle, picture, "-o", one, "--steps", "1", "--lpips", *files)[0] == 0
    told(anycost("project", bundle, picture, "--steps", "1", "--lpips", *files[::-1]), "LPIPS", "missing")
    told(anycost("project", bundle, picture, "--lpips", files[0], tmp_path / "none.pth"), "none.pth")
    for content in (b"", b"\x80\x04cos\nsystem\n.", np.zeros(3).tobytes()):
        code.write_bytes(content)
        told(anycost("edit", bundle, "--w-plus", code, "--set", "hat=50"), "me.npy")
    np.save(code, np.zeros((1, 8, 63), np.float32))
    told(anycost("edit", bundle, "--w-plus", code, "--set", "hat=50"), "63")


def test_attributes_are_printed_with_numbers_where_nothing_is_named(anycost, bundle, picture):
    code, out, _ = anycost("attributes", bundle, picture, "--threshold", "0", "--most", "2")
    assert code == 0 and len(out.strip().splitlines()) == 3
    shown = json.loads(anycost("attributes", bundle, picture, "--json")[1])[str(picture)]
    assert list(shown) == ["0", "1", "2"] and all(0 <= score <= 1 for score in shown.values())
    told(anycost("attributes", bundle, picture, "--threshold", "2"), "threshold 2")
    told(anycost("tag", bundle, picture), "no network of kind tagger")


@pytest.mark.parametrize("mask", ["center", "box:10,20,30,40", "boxes:2", "strokes", "file"])
def test_inpaint_keeps_what_is_not_missing(anycost, bundle, picture, tmp_path, mask):
    if mask == "file":
        hole = np.zeros((90, 120), np.uint8)
        hole[30:50, 60:100] = 255
        Image.fromarray(hole).save(tmp_path / "hole.png")
        mask = str(tmp_path / "hole.png")
    target = tmp_path / "whole.png"
    done = anycost("inpaint", bundle, picture, "--mask", mask, "--seed", 4, "-o", target, "--json")
    assert done[0] == 0
    before, after = np.asarray(Image.open(picture)), np.asarray(Image.open(target))
    changed = (before != after).any(-1)
    assert after.shape == before.shape and 0 < changed.sum() <= json.loads(done[1])["missing"]
    told(anycost("inpaint", bundle, picture, "--mask", "box:200,0,5,5", "-o", target), "box")


def test_translate_a_picture(anycost, bundle, picture, tmp_path):
    target = tmp_path / "toon.png"
    told(anycost("translate", bundle, picture, "--style-seed", "0", "-o", target), "several", "toon")
    toon = ("translate", bundle, picture, "--name", "toon", "-o", target)
    assert anycost(*toon, "--style-seed", "0-3")[0] == 0 and Image.open(target).size == (128, 128)
    assert anycost(*toon, "--reference", picture, "--reference-network", "photo")[0] == 0
    np.save(tmp_path / "style.npy", np.zeros(6, np.float32))
    assert anycost(*toon, "--style-file", tmp_path / "style.npy")[0] == 0 and Image.open(target).size == (64, 64)
    told(anycost(*toon, "--style-seed", "0", "--style-file", tmp_path / "style.npy"), "one of")


def test_translate_a_video(anycost, bundle, tmp_path):
    av = pytest.importorskip("av")
    source, target = tmp_path / "clip.mp4", tmp_path / "toon.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    done = anycost(
        "translate", bundle, source, "--name", "toon", "--style-seed", "1", "--style-end", "2", "-o", target, "--json"
    )
    assert done[0] == 0 and json.loads(done[1])["frames"] == 5
    with av.open(str(target)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5


@pytest.mark.parametrize("command", ["encode", "attributes", "inpaint", "translate"])
def test_bad_pictures_are_told(anycost, bundle, tmp_path, command):
    more = ("--name", "toon") if command == "translate" else ()
    for name, content in (("empty.png", b""), ("text.png", b"hello"), ("absent.png", None)):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        told(anycost(command, bundle, path, *more), name)


def test_tags_come_from_a_text_file(anycost, tmp_path, picture):
    names = tmp_path / "tags.txt"
    names.write_text("\n".join(["# tags", *TAGS]))
    weights = random_network("tagger", 0, tags=4)
    save_weights(tmp_path / "tagger.safetensors", weights.tensors, weights.described())
    done = anycost(
        "build", tmp_path / "tagger.safetensors", "-o", tmp_path / "b", "--backend", "onnxruntime", "--labels", names
    )
    assert done[0] == 0, done[2]
    shown = json.loads(anycost("tag", tmp_path / "b", picture, "--threshold", "0", "--json")[1])[str(picture)]
    assert sorted(shown) == sorted(TAGS) and list(shown.values()) == sorted(shown.values(), reverse=True)
    names.write_text("one\ntwo\n")
    told(anycost("build", tmp_path / "tagger.safetensors", "-o", tmp_path / "c", "--labels", names), "2", "4")


def test_convert_reads_each_and_says_where_it_came_from(anycost, tmp_path):
    tiny = random_checkpoint("tiny")
    torch.save({"g_ema": tiny.tensors, "latent_avg": torch.ones(64)}, tmp_path / "a.bin")
    code, out, _ = anycost("convert", tmp_path / "a.bin", tmp_path / "a.safetensors", "--json")
    shown = json.loads(out)
    assert (
        code == 0
        and shown["network"] == "stylegan2"
        and shown["source"] == "a.bin"
        and shown["arguments"]["resolution"] == 32
    )
    again = json.loads(anycost("convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--json")[1])
    assert again["arguments"] == shown["arguments"]
    one, two = (random_network("gans-n-roses", seed, **OTHERS["gans-n-roses"]).tensors for seed in (0, 1))
    torch.save({"G_A2B_ema": one, "G_B2A_ema": two, "iteration": 5}, tmp_path / "gnr.pt")
    for key in ("G_A2B_ema", "G_B2A_ema"):
        assert anycost("convert", tmp_path / "gnr.pt", tmp_path / f"{key}.safetensors", "--key", key)[0] == 0
    assert (tmp_path / "G_A2B_ema.safetensors").read_bytes() != (tmp_path / "G_B2A_ema.safetensors").read_bytes()
    told(anycost("convert", tmp_path / "gnr.pt", tmp_path / "x.safetensors", "--key", "G"), "'G'", "G_B2A_ema")
    told(anycost("convert", tmp_path / "gnr.pt", tmp_path), "folder")
    told(anycost("convert", tmp_path / "none.pt", tmp_path / "x.safetensors"), "none.pt")


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS if kind.name in OTHERS and kind.name not in ("tagger",)])
def test_every_kind_survives_conversion(anycost, tmp_path, kind):
    network = random_network(kind, 0, **OTHERS[kind])
    torch.save({"state_dict": network.tensors}, tmp_path / "plain.pt")
    code, out, err = anycost("convert", tmp_path / "plain.pt", tmp_path / "a.safetensors", "--json")
    shown = json.loads(out) if code == 0 else err
    # An LSGAN's file looks like a DCGAN's until something says which it is.
    assert code == 0 and shown["network"] == ("dcgan" if kind == "lsgan" else kind), shown
    assert shown["arguments"] == json.loads(network.described()["arguments"])


def test_blend_and_its_sheet(anycost, tmp_path):
    for seed, name in ((0, "a"), (1, "b")):
        found = random_checkpoint("tiny", seed)
        save_weights(tmp_path / f"{name}.safetensors", found.stored(), found.described())
    a, b, mixed = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "mixed.safetensors"
    assert anycost("blend", a, b, "-o", mixed, "--swap-resolution", "16", "--level", "1", "--ramp", "2")[0] == 0
    built = anycost("build", mixed, "-o", tmp_path / "bundle", "--subnets", "1@16", "--backend", "onnxruntime")
    assert built[0] == 0
    assert anycost("blend", a, b, "--sheet", tmp_path / "sheet.png", "--seed", "0-1")[0] == 0
    assert Image.open(tmp_path / "sheet.png").size[1] > 300
    told(anycost("blend", a, b), "-o", "--sheet")
    told(anycost("blend", a, b, "-o", mixed, "--swap-resolution", "64"), "64")
    told(anycost("blend", a, b, "-o", mixed, "--swap-resolution", "16", "--level", "3"), "3")


def test_the_survey_lists_and_verifies(anycost, tmp_path):
    code, out, _ = anycost("inspect", "--networks", "--json")
    rows = json.loads(out)
    assert code == 0 and len(rows) == len(KINDS) + 1 and all(sum(row["macs"].values()) > 0 for row in rows)
    page = tmp_path / "networks.md"
    code, out, _ = anycost("inspect", "--networks", "--verify", "--only", "mlp-gan,mnist-cnn", "-o", page, "--json")
    assert code == 0
    for row in json.loads(out):
        assert {engine["engine"].split("/")[1] for engine in row["engines"]} == {"onnxruntime", "openvino"}
        assert min(engine["parity"]["psnr_db"] for engine in row["engines"]) > 90
    assert "| mlp-gan |" in page.read_text() and "dB" in page.read_text()
    told(anycost("inspect", "--networks", "--only", "resnet"), "resnet", "mlp-gan")
    told(anycost("inspect"), "--networks")


def test_the_runtimes_methods_do_what_the_commands_do(anycost, bundle, picture, tmp_path):
    import anycost as package

    runtime = package.open(bundle)
    anycost("encode", bundle, picture, "-o", tmp_path / "me.npy")
    assert np.array_equal(runtime.encode(picture), np.load(tmp_path / "me.npy"))
    anycost("inpaint", bundle, picture, "--mask", "strokes", "--seed", 2, "-o", tmp_path / "whole.png")
    assert np.array_equal(runtime.inpaint(picture, "strokes", seed=2), np.asarray(Image.open(tmp_path / "whole.png")))
    anycost("translate", bundle, picture, "--name", "toon", "--style-seed", "5", "-o", tmp_path / "toon.png")
    assert np.array_equal(
        runtime.translate(picture, seeds=5, name="toon")[0], np.asarray(Image.open(tmp_path / "toon.png"))
    )
    shown = json.loads(anycost("attributes", bundle, picture, "--json")[1])
    assert runtime.attributes(picture)[0] == pytest.approx(shown[str(picture)])
