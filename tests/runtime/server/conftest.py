"""A small bundle that holds something of everything, and real servers over it."""

import numpy as np
import pytest
from served import serving
from small_networks import OTHERS


@pytest.fixture(scope="session")
def full_bundle(tmp_path_factory, tiny_checkpoint):
    """Three sub-networks of 32 px, directions, an encoder, inpainting, and two translators, for ONNX Runtime alone. Not to be
    written to."""
    from anycost.editing.directions import Directions
    from anycost.export.build import Plan, build
    from anycost.weights.random_init import random_network

    arch = tiny_checkpoint.arch
    vectors = np.random.RandomState(0).standard_normal((2, arch.style_dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    arguments = OTHERS | {
        "encoder": {"n_style": 8, "style_dim": arch.style_dim},
        "cyclegan": {"features": 2, "blocks": 1},
    }
    kinds = {"encoder": "encoder", "inpainting": "context-encoder", "roses": "gans-n-roses", "cycle": "cyclegan"}
    networks = {name: random_network(kind, 0, **arguments.get(kind, {})) for name, kind in kinds.items()}
    plan = Plan(
        "full",
        [arch.subnet(16, 0.25), arch.subnet(32, 0.5), arch.full()],
        ["onnxruntime"],
        networks=networks,
        directions=Directions(("smiling", "young"), vectors),
    )
    folder = tmp_path_factory.mktemp("full") / "bundle"
    build(tiny_checkpoint, plan, folder)
    return folder


@pytest.fixture(scope="session")
def server(full_bundle):
    """For tests that leave it as it is."""
    with serving(full_bundle) as served:
        yield served


@pytest.fixture
def client(server):
    with server.client() as found:
        yield found
