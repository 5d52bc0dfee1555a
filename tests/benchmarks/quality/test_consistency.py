import numpy as np
import pytest

from anycost.benchmarks.quality.consistency import consistency
from anycost.errors import InputError


def logits(probabilities, offset=3.0) -> np.ndarray:
    """[N, attributes] -> logits (no, yes) that give these probabilities, whatever is added to both."""
    p = np.array(probabilities, np.float64)
    return np.stack([np.log(1 - p) + offset, np.log(p) + offset], axis=-1).astype(np.float32)


def test_by_hand():
    reference = logits([[0.9, 0.6, 0.1], [0.81, 0.3, 0.79]])
    other = logits([[0.6, 0.4, 0.2], [0.4, 0.2, 0.1]], offset=-1)
    found = consistency(reference, other)
    # Confident: 0.9, 0.1 and 0.81; the third of them became 0.4. Of all six also 0.3 was kept, 0.6 and 0.79 were not.
    assert found.decisions == 3 and found.share == pytest.approx(2 / 3) and found.share_of_all == pytest.approx(3 / 6)
    wide = consistency(reference, other, unsure=0.5)
    assert wide.decisions == 6 and wide.share == wide.share_of_all == found.share_of_all


def test_only_the_references_confidence_counts():
    reference, other = logits([[0.95, 0.05]]), logits([[0.51, 0.49]])
    assert consistency(reference, other).share == 1
    assert consistency(other, reference).share is None and consistency(other, reference).decisions == 0


@pytest.mark.parametrize("unsure", [0.01, 0.2, 0.45])
def test_random_logits_against_probabilities(unsure):
    state = np.random.RandomState(0)
    reference, other = state.standard_normal((2, 50, 7, 2)) * 2
    p, q = (np.exp(x[..., 1]) / np.exp(x).sum(-1) for x in (reference, other))
    sure = (p < unsure) | (p > 1 - unsure)
    found = consistency(reference, other, unsure)
    assert found.decisions == sure.sum()
    assert found.share == pytest.approx(np.mean((p > 0.5)[sure] == (q > 0.5)[sure]))
    assert consistency(reference, reference, unsure).share == 1


def test_refused():
    x = np.zeros((4, 3, 2))
    for other in (x[:2], x[..., 0], np.full_like(x, np.nan)):
        with pytest.raises(InputError):
            consistency(x, other)
    for unsure in (0, 0.6, float("nan")):
        with pytest.raises(InputError, match="unsure"):
            consistency(x, x, unsure)
