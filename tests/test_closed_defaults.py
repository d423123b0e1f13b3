"""Defaults of the closed forms: published numbers, or ours as documented; and what settings may be."""

import inspect

import pytest
import torch
from dense_ctx_dip.ncut import affinity, best_cut, ncut_segments, recursive_cut
from dense_ctx_dip.ncut_batch import ncut_segments_of, recursive_cuts
from dense_ctx_dip.projector import Projector
from dense_ctx_dip.segmenters import NcutSegmenter
from dense_ctx_dip.soft_labels import soft_predict
from dense_ctx_lila.losses import edge_loss
from dense_ctx_lila.matching_op import linear_matching
from dense_ctx_lila.pamr import refine
from dense_ctx_lila.regression import Regression
from dense_ctx_lila.ridge import ridge_fit
from dense_ctx_metrics.vos import boundary_f
from dense_ctx_predict import track
from dense_ctx_probes.knn import KnnProbe, soft_knn
from dense_ctx_probes.local_knn import Propagator
from dense_ctx_probes.propagation import PropagationProbe
from dense_ctx_probes.retrieval import RetrievalProbe
from dense_ctx_probes.ridge import RidgeProbe

from dense_ctx.errors import InputError
from dense_ctx.interfaces import DenseFeatures

DINO = {"n_last_frames": 7, "size_mask_neighborhood": 12, "topk": 5, "temperature": 0.1}  # its evaluation's
HUMMINGBIRD = {"k": 30, "temperature": 0.02}
DIFFCUT = {"tau": 0.5, "alpha": 10.0}
DEFAULTS = {  # the published numbers, and where none is published ours as documented
    ridge_fit: {"penalty": 0.1, "bias": "free", "mean": True},
    Regression: {"penalty": 0.1, "relative": True, "bias": "free", "mean": True, "stride": 7, "products": None},
    RidgeProbe: {"penalty": 1e-3, "bias": "free", "mean": True},
    refine: {"pyramid": (4, 2, 1), "iterations": (20, 10, 5), "dilations": (1, 3, 5)},  # LILA, appendix B
    edge_loss: {"sigma": 0.1, "reduction": "mean"},
    linear_matching: {"sigma": 0.1, "gamma": 1.0, "products": "float32"},
    soft_knn: HUMMINGBIRD,
    KnnProbe: {**HUMMINGBIRD, "memory": 65_536},
    RetrievalProbe: {**HUMMINGBIRD, "memory": 10_240_000, "mode": "sound"},
    Propagator: DINO,
    PropagationProbe: DINO,
    track: {**DINO, "stride": 8},
    ncut_segments: {**DIFFCUT, "official_quirk": False},
    ncut_segments_of: {**DIFFCUT, "official_quirk": False},
    NcutSegmenter: {**DIFFCUT, "official_quirk": False},
    affinity: {"alpha": 10.0},
    best_cut: {"exact": False},
    recursive_cut: {"tau": 0.5, "official_quirk": False, "exact": False},
    recursive_cuts: {"tau": 0.5, "official_quirk": False},
    soft_predict: {"temperature": 0.07},
    Projector: {"hidden": 7, "out": 6144},
    boundary_f: {"tolerance": 0.008},
}


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("function", DEFAULTS, ids=lambda f: f.__name__)
def test_defaults(function):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in DEFAULTS[function]} == DEFAULTS[function]


def test_what_a_probe_may_be_asked_for():
    for make in (KnnProbe, RetrievalProbe):
        make(k=1, memory=1, temperature=1e-6)
        for name in ("k", "memory", "temperature"):
            with pytest.raises(InputError, match=f"{name}=0"):
                make(**{name: 0})
    assert (RetrievalProbe().sampling, RetrievalProbe("regression").sampling) == ("balanced", "uniform")
    KnnProbe(stride=1)
    features, labels = noise(2, 3, 4), torch.ones(2, 3, 4)
    Propagator(features, labels, 0, 0, 1, 1e-6)
    for name, value in (("n_last_frames", -1), ("size_mask_neighborhood", -1), ("topk", 0), ("temperature", 0.0)):
        with pytest.raises(InputError, match=f"{name}={value}"):
            Propagator(features, labels, **{name: value})
    with pytest.raises(InputError, match="No labelled pixel"):
        PropagationProbe().partial_fit(DenseFeatures(noise(1, 3, 4, 5), noise(1, 3, 4, 5)), -torch.ones(1, 4, 5).long())
