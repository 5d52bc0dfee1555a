"""The protocol by its own client, tritonclient.http, unchanged; and by hand where that client cannot do wrong."""

import json

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

import anycost
from anycost.runtime.samples import inputs_of


@pytest.fixture(scope="module")
def runtime(full_bundle):
    return anycost.open(full_bundle, threads=1)


@pytest.fixture(scope="module")
def triton_client(server):
    client = triton.InferenceServerClient(server.address.removeprefix("http://"))
    yield client
    client.close()


def tensor(name, array, datatype="FP32", *, binary=True):
    found = triton.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array, binary_data=binary)
    return found


def test_the_server_and_its_models_are_told(triton_client):
    assert triton_client.is_server_live() and triton_client.is_server_ready()
    assert triton_client.get_server_metadata()["name"] == "anycost"
    names = {entry["name"] for entry in triton_client.get_model_repository_index()}
    assert {"generator", "mapping", "1@32", "encoder", "roses.decode", "inpainting", "cycle"} <= names
    for name in names:
        assert triton_client.is_model_ready(name)
        told = triton_client.get_model_metadata(name)
        assert told["name"] == name and told["inputs"] and told["outputs"]
    assert triton_client.get_model_metadata("1@32", "1")["outputs"] == [
        {"name": "image", "datatype": "FP32", "shape": [-1, 3, 32, 32]}
    ]
    assert not triton_client.is_model_ready("nothing")
    with pytest.raises(InferenceServerException, match="no model"):
        triton_client.get_model_metadata("nothing")
    with pytest.raises(InferenceServerException, match="no version"):
        triton_client.get_model_metadata("generator", "2")


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("got", [True, False])
def test_images_from_codes_in_both_forms_both_ways(triton_client, runtime, sent, got):
    codes = runtime.codes([5, 6])
    result = triton_client.infer(
        "generator",
        [tensor("w_plus", codes, binary=sent)],
        outputs=[triton.InferRequestedOutput("images", binary_data=got)],
        request_id="mine",
    )
    np.testing.assert_array_equal(result.as_numpy("images"), runtime.generate(w_plus=codes))
    told = result.get_response()
    assert told["id"] == "mine" and told["parameters"]["engine"] == "1@32/onnxruntime"
    assert ("data" in told["outputs"][0]) is not got


def test_images_from_seeds_with_parameters(triton_client, runtime):
    result = triton_client.infer(
        "generator",
        [tensor("seeds", np.array([1, 2], np.int64), "INT64")],
        parameters={"subnet": "0.25@16", "psi": 0.5},
    )
    np.testing.assert_array_equal(result.as_numpy("images"), runtime.generate([1, 2], psi=0.5, subnet="0.25@16"))
    result = triton_client.infer(
        "generator", [tensor("seeds", np.array([1], np.int64), "INT64")], parameters={"max_resolution": 16}
    )
    assert result.get_response()["parameters"]["subnet"] == "0.25@16"


def test_a_sub_network_and_the_mapping(triton_client, runtime):
    z = np.random.RandomState(0).standard_normal((3, 64)).astype(np.float32)
    w = triton_client.infer("mapping", [tensor("z", z)]).as_numpy("w")
    np.testing.assert_array_equal(w, runtime.mapping(z))
    codes = np.repeat(w[:, None], 8, axis=1)
    made = triton_client.infer("0.5@32", [tensor("w_plus", codes)], model_version="1").as_numpy("image")
    session = runtime.session("0.5@32", "onnxruntime")
    np.testing.assert_array_equal(made, session.synthesize(codes, None))


@pytest.mark.parametrize("name", ["encoder", "inpainting", "roses.encode", "roses.decode", "cycle"])
def test_every_part_is_the_engine_itself(triton_client, runtime, name):
    record, short = runtime.bundle.part(name)
    inputs = inputs_of(record.part(short), 2)
    result = triton_client.infer(name, [tensor(key, value) for key, value in inputs.items()])
    for key, value in runtime.network(record.kind, record.name).run(short, inputs).items():
        np.testing.assert_allclose(result.as_numpy(key), value, rtol=1e-4, atol=1e-4)


def test_many_at_once_by_its_asynchronous_calls(server, runtime):
    client = triton.InferenceServerClient(server.address.removeprefix("http://"), concurrency=8)
    codes = runtime.codes(list(range(8)))
    calls = [client.async_infer("generator", [tensor("w_plus", codes[i : i + 1])]) for i in range(8)]
    made = np.concatenate([call.get_result().as_numpy("images") for call in calls])
    client.close()
    expected = runtime.generate(w_plus=codes)
    assert np.abs(made.astype(int) - expected).max() <= 1  # other batches, other sums


def body(**changes):
    entry = {"name": "seeds", "shape": [1], "datatype": "INT64", "data": [0]}
    return {"inputs": [entry | changes.pop("entry", {})], **changes}


WRONG = [
    b"",
    b"{",
    b"[]",
    b'{"inputs": []}',
    b"[" * 50_000,
    json.dumps(body(entry={"name": "x"})).encode(),
    json.dumps(body(entry={"shape": [2]})).encode(),
    json.dumps(body(entry={"shape": [-1]})).encode(),
    json.dumps(body(entry={"shape": [0], "data": []})).encode(),
    json.dumps(body(entry={"shape": [2**31], "data": []})).encode(),
    json.dumps(body(entry={"shape": [1, 1]})).encode(),
    json.dumps(body(entry={"datatype": "FP32"})).encode(),
    json.dumps(body(entry={"datatype": "BYTES"})).encode(),
    json.dumps(body(entry={"data": ["0"]})).encode(),
    json.dumps(body(entry={"data": [0.5]})).encode(),
    json.dumps(body(entry={"data": [-1]})).encode(),
    json.dumps(body(entry={"data": [2**70]})).encode(),
    json.dumps(body(entry={"data": [[0], [0, 1]]})).encode(),
    json.dumps(body(entry={"data": None})).encode(),
    json.dumps(body(entry={"shape": [17], "data": [0] * 17})).encode(),
    json.dumps(body(entry={"parameters": {"binary_data_size": 8}})).encode(),
    json.dumps(body(entry={"data": None, "parameters": {"binary_data_size": 8}})).encode(),
    json.dumps(body(entry={"parameters": {"shared_memory_region": "x"}})).encode(),
    json.dumps(body(outputs=[{"name": "x"}])).encode(),
    json.dumps(body(outputs=[{"name": "images", "parameters": {"classification": 3}}])).encode(),
    json.dumps(body(parameters={"psi": "x"})).encode(),
    json.dumps(body(parameters={"psi": 5})).encode(),
    json.dumps(body(parameters={"latency_ms": -5})).encode(),
    json.dumps(body(parameters={"subnet": ["x"]})).encode(),
    json.dumps(body(parameters={"noise": "random", "noise_seed": 1e300})).encode(),
    json.dumps({"inputs": body()["inputs"] * 2}).encode(),
]


@pytest.mark.parametrize("content", WRONG)
def test_what_is_no_request_is_400_in_the_protocols_words(client, content):
    answer = client.post("/v2/models/generator/infer", content=content)
    assert answer.status_code == 400, answer.text
    assert isinstance(answer.json()["error"], str) and answer.json()["request_id"]


@pytest.mark.parametrize("length", ["x", "-1", "10000", "9" * 5000, "5"])
def test_a_wrong_length_of_the_header(client, length):
    headers = {"Inference-Header-Content-Length": length}
    answer = client.post("/v2/models/generator/infer", content=json.dumps(body()), headers=headers)
    assert answer.status_code == 400


def test_bytes_that_follow_and_nothing_takes(client):
    text = json.dumps(body()).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    assert client.post("/v2/models/generator/infer", content=text + b"123", headers=headers).status_code == 400


def test_a_nan_is_refused(client, triton_client):
    codes = np.full((1, 8, 64), np.nan, np.float32)
    for model in ("generator", "1@32"):
        with pytest.raises(InferenceServerException, match="NaN"):
            triton_client.infer(model, [tensor("w_plus", codes)])


def test_the_time_limit_of_the_protocol_is_the_deadline(triton_client):
    with pytest.raises(InferenceServerException, match="not done within"):
        triton_client.infer("encoder", [tensor("image", np.zeros((16, 3, 256, 256), np.float32))], timeout=1000)
