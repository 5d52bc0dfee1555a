"""The addresses under /v1, by a real server process."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from served import as_file, picture

import anycost


@pytest.fixture(scope="module")
def runtime(full_bundle):
    return anycost.open(full_bundle, threads=1)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def npy(data):
    return np.load(io.BytesIO(data), allow_pickle=False)


def code_of(response):
    return response.json()["error"]["code"]


class TestGenerate:
    def test_one_image_is_a_file_with_what_made_it(self, client, runtime):
        answer = client.post("/v1/generate", json={"seeds": [3], "psi": 0.7}, headers={"X-Request-Id": "mine-1"})
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
        assert answer.headers["X-Anycost-Subnet"] == "1@32" and answer.headers["X-Request-Id"] == "mine-1"
        assert answer.headers["X-Anycost-Engine"] == "1@32/onnxruntime"
        assert float(answer.headers["X-Anycost-Elapsed-Ms"]) > 0
        np.testing.assert_array_equal(pixels(answer.content), runtime.generate(3, psi=0.7)[0])

    @pytest.mark.parametrize(("form", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP")])
    def test_other_formats(self, client, runtime, form, kind):
        answer = client.post("/v1/generate", json={"seeds": [0], "format": form})
        image = Image.open(io.BytesIO(answer.content))
        assert answer.headers["content-type"] == f"image/{form}" and image.format == kind
        difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - runtime.generate(0)[0])
        assert difference.mean() < 20  # noise of random weights is the worst that a codec can meet

    def test_several_as_npy_and_as_json(self, client, runtime):
        expected = runtime.generate([1, 2, 3], subnet="0.25@16")
        asked = {"seeds": [1, 2, 3], "subnet": "0.25@16"}
        images = npy(client.post("/v1/generate", json={**asked, "format": "npy"}).content)
        np.testing.assert_array_equal(images, expected)
        body = client.post("/v1/generate", json=asked).json()
        assert body["subnet"] == "0.25@16" and body["format"] == "png"
        listed = [pixels(base64.b64decode(text)) for text in body["images"]]
        np.testing.assert_array_equal(listed, expected)

    def test_a_budget_chooses(self, client):
        answer = client.post("/v1/generate", json={"seeds": [0], "budget": {"max_resolution": 16}})
        assert answer.headers["X-Anycost-Subnet"] == "0.25@16"
        answer = client.post("/v1/generate", json={"seeds": [0], "budget": {"min_resolution": 64}})
        assert answer.status_code == 422 and code_of(answer) == "budget"

    def test_random_noise_is_that_of_its_seed(self, client, runtime):
        asked = {"seeds": [0, 1], "noise": "random", "noise_seed": 5, "format": "npy"}
        images = npy(client.post("/v1/generate", json=asked).content)
        np.testing.assert_array_equal(images, runtime.generate([0, 1], noise="random", noise_seed=5))

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"seeds": []},
            {"seeds": [-1]},
            {"seeds": [2**32]},
            {"seeds": [0.5]},
            {"seeds": [0] * 17},
            {"seeds": [0], "psi": 3},
            {"seeds": [0], "format": "exe"},
            {"seeds": [0], "unknown": 1},
            {"seeds": [0], "subnet": "2@64"},
            {"seeds": [0], "backend": "nothing"},
            {"seeds": [0], "budget": {"latency_ms": -1}},
            {"seeds": [0], "budget": {"min_resolution": 64, "max_resolution": 8}},
            {"seeds": [0], "noise": "some"},
            [],
            None,
        ],
    )
    def test_what_is_not_accepted_is_400_and_says_so(self, client, full_bundle, body):
        answer = client.post("/v1/generate", json=body)
        assert answer.status_code == 400 and code_of(answer) == "invalid"
        assert answer.json()["error"]["request_id"] == answer.headers["X-Request-Id"]
        assert str(full_bundle) not in answer.text and "Traceback" not in answer.text

    def test_bodies_that_are_no_json(self, client):
        for content in (b"{", b"\xff\xfe", b"[" * 100_000, b'{"seeds": [NaN]}', b"1" * 5000):
            answer = client.post("/v1/generate", content=content, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400, content[:20]


class TestEdit:
    def test_a_seed_and_codes_are_moved_along_directions(self, client, runtime):
        values = {"smiling": 60, "young": -20}
        expected = runtime.generate(w_plus=runtime.edit(runtime.codes(4), values))[0]
        answer = client.post("/v1/edit", json={"seed": 4, "values": values})
        np.testing.assert_array_equal(pixels(answer.content), expected)
        codes = runtime.codes(4)[0].tolist()
        answer = client.post("/v1/edit", json={"w_plus": codes, "values": values})
        np.testing.assert_array_equal(pixels(answer.content), expected)
        moved = client.post("/v1/edit", json={"w_plus": [codes, codes], "format": "npy"})
        np.testing.assert_array_equal(npy(moved.content)[1], runtime.generate(4)[0])

    @pytest.mark.parametrize(
        "body",
        [
            {"values": {"smiling": 1}},
            {"seed": 0, "w_plus": [[0.0]]},
            {"w_plus": [[0.0]]},
            {"w_plus": [[0.0], [0.0, 1.0]]},
            {"w_plus": []},
            {"seed": 0, "values": {"smiling": 101}},
            {"seed": 0, "values": {"nothing": 1}},
        ],
    )
    def test_what_is_not_accepted(self, client, body):
        assert client.post("/v1/edit", json=body).status_code == 400

    def test_codes_beyond_float32_are_no_picture(self, client, runtime):
        codes = np.full(runtime.codes(0)[0].shape, 1e39).tolist()
        assert client.post("/v1/edit", json={"w_plus": codes}).status_code == 400


class TestPictures:
    def test_encode_takes_a_body_and_a_form(self, client, runtime):
        image = picture()
        expected = runtime.encode(image)
        for answer in (
            client.post("/v1/encode", content=as_file(image), headers={"Content-Type": "image/png"}),
            client.post("/v1/encode", files={"image": ("a.png", as_file(image))}),
        ):
            assert answer.status_code == 200, answer.text
            np.testing.assert_allclose(answer.json()["w_plus"], expected[0], atol=1e-5)
        answer = client.post("/v1/encode", params={"format": "npy", "fit": "pad"}, content=as_file(image))
        np.testing.assert_allclose(npy(answer.content), runtime.encode(image, fit="pad"), atol=1e-5)

    def test_npy_is_a_picture_too(self, client, runtime):
        file = io.BytesIO()
        np.save(file, picture())
        answer = client.post("/v1/encode", content=file.getvalue())
        np.testing.assert_allclose(answer.json()["w_plus"], runtime.encode(picture())[0], atol=1e-5)

    def test_inpaint_keeps_the_rest_exact(self, client, runtime):
        image = picture()
        mask = np.zeros(image.shape[:2], bool)
        mask[10:30, 20:40] = True
        expected = runtime.inpaint(image, mask)
        form = {"image": ("a.png", as_file(image)), "mask": ("m.png", as_file(mask.astype(np.uint8) * 255))}
        for answer in (
            client.post("/v1/inpaint", files=form),
            client.post("/v1/inpaint", files={"image": form["image"]}, data={"mask": "box:20,10,20,20"}),
        ):
            assert answer.status_code == 200, answer.text
            made = pixels(answer.content)
            np.testing.assert_array_equal(made[~mask], image[~mask])
            np.testing.assert_array_equal(made, expected)

    def test_translate_gives_an_image_a_seed(self, client, runtime):
        form = {"image": ("a.png", as_file(picture()))}
        answer = client.post("/v1/translate", files=form, data={"network": "roses", "seeds": "3,4", "format": "npy"})
        expected = runtime.translate(picture(), seeds=[3, 4], name="roses")
        np.testing.assert_array_equal(npy(answer.content), expected)
        answer = client.post("/v1/translate", files=form, data={"network": "cycle"})
        np.testing.assert_array_equal(pixels(answer.content), runtime.translate(picture(), name="cycle")[0])
        assert client.post("/v1/translate", files=form).status_code == 400  # which of the two
        assert client.post("/v1/translate", files=form, data={"network": "x"}).status_code == 404

    @pytest.mark.parametrize(
        ("content", "status"),
        [
            (b"", 400),
            (b"not a picture", 415),
            (b"%!PS-Adobe", 415),
            (as_file(picture())[:60], 400),
            (as_file(picture())[:20], 415),
            (as_file(picture(), "GIF"), 415),
            (b"\x93NUMPY\x01\x00", 400),
            (b"\x93NUMPY\x01\x00\x10\x00" + b"{" * 16, 400),
        ],
    )
    def test_what_is_no_picture(self, client, content, status):
        answer = client.post("/v1/encode", content=content)
        assert answer.status_code == status, answer.text

    def test_a_bomb_is_refused_by_its_header(self, client):
        file = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(file, "PNG")  # 50 kB that would be 1.2 GB
        assert len(file.getvalue()) < 100_000
        answer = client.post("/v1/encode", content=file.getvalue())
        assert answer.status_code == 413 and code_of(answer) == "too_large"
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6, 3)})
        assert client.post("/v1/encode", content=file.getvalue()).status_code == 413
        file = io.BytesIO()
        np.save(file, np.array([{}]), allow_pickle=True)
        assert client.post("/v1/encode", content=file.getvalue()).status_code == 400

    def test_forms_that_are_none(self, client):
        for headers in ({"Content-Type": "multipart/form-data"}, {"Content-Type": "multipart/form-data; boundary=x"}):
            assert client.post("/v1/inpaint", content=b"--y\r\n", headers=headers).status_code == 400
        assert client.post("/v1/inpaint", content=b"x").status_code == 415
        answer = client.post(
            "/v1/inpaint", files={"image": ("a.png", as_file(picture()))}, data={"mask": "/etc/passwd"}
        )
        assert answer.status_code == 400


class TestAbout:
    def test_models_say_what_there_is(self, client):
        body = client.get("/v1/models").json()
        assert [net["name"] for net in body["generator"]["subnets"]] == ["0.25@16", "0.5@32", "1@32"]
        assert {net["name"]: net["kind"] for net in body["networks"]}["roses"] == "gans-n-roses"
        assert body["generator"]["directions"] is True and body["limits"]["max_images"] == 16
        assert [one["name"] for one in client.get("/v1/directions").json()["directions"]] == ["smiling", "young"]

    def test_explain(self, client):
        body = client.get("/v1/explain", params={"max_resolution": 16}).json()
        assert body["chosen"] == "0.25@16/onnxruntime" and len(body["engines"]) == 3
        body = client.get("/v1/explain", params={"min_resolution": 64}).json()
        assert body["chosen"] is None and "nothing fits" in body["reason"]
        assert client.get("/v1/explain", params={"latency_ms": "x"}).status_code == 400

    def test_health_and_metrics(self, client):
        assert client.get("/health/live").json() == {"live": True}
        assert client.get("/health/ready").json() == {"ready": True}
        assert client.get("/health").json()["workers_ready"] == 1
        client.post("/v1/generate", json={"seeds": [0]})
        text = client.get("/metrics").text
        for name in (
            'anycost_engine_seconds_count{engine="1@32/onnxruntime"}',
            'anycost_subnet_total{subnet="1@32"}',
            "anycost_queue_length 0.0",
            "anycost_downgrades_total",
            "anycost_worker_restarts_total",
            'anycost_requests_total{route="/v1/generate",status="200"}',
        ):
            assert name in text

    def test_unknown_addresses_and_methods(self, client):
        answer = client.get("/v1/nothing")
        assert answer.status_code == 404 and code_of(answer) == "not_found"
        answer = client.get("/v1/generate")
        assert answer.status_code == 405 and answer.headers["allow"] == "POST"

    def test_the_description_has_every_address_its_errors_and_examples(self, client):
        body = client.get("/openapi.json").json()
        for path in ("/v1/generate", "/v1/edit", "/v1/encode", "/v1/inpaint", "/v1/translate"):
            operation = body["paths"][path]["post"]
            assert {"200", "400", "413", "429", "503"} <= set(operation["responses"])
        assert "HTTPValidationError" not in str(body)
        assert body["components"]["schemas"]["GenerateBody"]["examples"]

    def test_the_editor_is_there(self, client):
        assert client.get("/").headers["content-type"].startswith("text/html")

    def test_no_other_origin_is_let_in(self, client):
        answer = client.get("/v1/models", headers={"Origin": "https://elsewhere.example"})
        assert "access-control-allow-origin" not in answer.headers
