"""Banks on a pretended device: copied there once where they fit, else block by block for each search, which is said."""

import warnings

import pytest
from dense_ctx_probes import retrieval_blocks
from pretend_gpu.device import compiler, pretend
from test_pretend_gpu_parts import close
from test_pretend_gpu_runs import on, scene

from dense_ctx import registry
from dense_ctx.errors import InputError

pytestmark = [
    pytest.mark.pretend_gpu,
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler (c++, g++ or clang++) for the pretended device"),
]
PROBES = {
    "knn": {}, "ensemble": {}, "retrieval": {}, "retrieval in float16": {"dtype": "float16"},
    "retrieval by length": {"mode": "dip"},
}  # fmt: skip


def fitted(name, **more):
    features, labels = scene(0)
    return registry().create("probe", name.split()[0], **PROBES[name], **more).partial_fit(features, labels)


def size(name):
    """Of the bank, and of what else goes to the device with it."""
    state = fitted(name).state_dict()
    return sum(state[key].numel() * state[key].element_size() for key in ("keys", "values"))


@pytest.mark.parametrize("name", PROBES)
def test_a_bank_that_fits_is_copied_once(name):
    (_, labels), (second, _), (third, _) = scene(0), scene(1), scene(2)
    expected = fitted(name).predict(second), fitted(name).predict(third)
    with pretend() as gpu:
        probe = fitted(name)
        there = [on(features, "cuda:1") for features in (second, third)]
        gpu.clear()
        close(expected[0], probe.predict(there[0]), 5e-3)
        assert sum(gpu.bytes.values()) >= size(name)
        gpu.clear()
        close(expected[1], probe.predict(there[1]), 5e-3)
        assert sum(gpu.bytes.values()) == 0
        assert gpu.touched == {1}
        probe.partial_fit(third, labels)  # another bank
        gpu.clear()
        reference = fitted(name).partial_fit(third, labels).predict(second)
        close(reference, probe.predict(there[0]), 5e-3)
        assert sum(gpu.bytes.values()) > 1.5 * size(name)
        state = fitted(name).state_dict()
        probe.load_state_dict(state)
        close(expected[0], probe.predict(there[0]), 5e-3)


@pytest.mark.parametrize("name", PROBES)
def test_a_larger_one_is_searched_in_blocks_and_that_is_said_once(name, monkeypatch):
    monkeypatch.setattr(retrieval_blocks, "WIDE", 40)
    second, _ = scene(1)
    expected = fitted(name).predict(second)
    with pretend() as gpu:
        probe, there = fitted(name, device_memory=size(name) - 1), on(second, "cuda")
        with pytest.warns(UserWarning, match=r"The bank takes .* GB of cuda:0 are for it: .*device_memory"):
            close(expected, probe.predict(there), 5e-3)
        gpu.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            close(expected, probe.predict(there), 5e-3)
        assert sum(gpu.bytes.values()) >= size(name) / 2  # of the keys, and the values of the neighbours
    with pytest.raises(InputError, match="much"):
        fitted(name, device_memory="much")


def test_a_search_on_the_device_does_not_wait(monkeypatch):
    monkeypatch.setattr(retrieval_blocks, "WIDE", 40)
    with pretend() as gpu:
        probe, there = fitted("retrieval"), on(scene(1)[0], "cuda")
        probe.predict(there)
        gpu.clear()
        probe.predict(there)
        assert gpu.counts()["waits"] == 0
