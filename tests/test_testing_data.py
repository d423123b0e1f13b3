"""check_metric and check_dataset pass a right part, and fail one that breaks a single clause, naming that clause."""

from dataclasses import replace

import pytest
import tiny_datasets as tiny
import torch
from dense_ctx_datasets.testing import check_dataset
from dense_ctx_metrics.segmentation import SegmentationMetric
from dense_ctx_metrics.testing import check_metric
from dense_ctx_metrics.video import VideoMetric

from dense_ctx.data import DatasetReader, ImageSet, Layout, Sample, VideoSet
from dense_ctx.data.base import Clip
from dense_ctx.errors import ContractError, InputError
from dense_ctx.interfaces import Metric, Scores


class Correct(Metric):
    """Share of pixels that are right, and its opposite."""

    target = "segmentation"
    higher_is_better = {"right": True, "wrong": False}  # noqa: RUF012

    def __init__(self, classes=(), fault=None):
        super().__init__(classes)
        self.fault = fault
        self.right = self.pixels = self.calls = 0

    def update(self, prediction, target):
        if self.fault == "update":
            raise RuntimeError("no such axis")
        self.right += int((prediction.argmax(0) == target).sum())
        self.pixels += int((target >= 0).sum())

    def state(self):
        self.calls += self.fault == "drifts"
        state = {"sums": [self.right + self.calls, self.pixels]}
        return {"tuple": tuple(state["sums"])} if self.fault == "tuple" else {**state, **self._extra()}

    def _extra(self):
        return {1: 2} if self.fault == "keys" else {"x": torch.ones(1)} if self.fault == "tensor" else {}

    def merge(self, state):
        right, pixels = state["sums"]
        self.right = right if self.fault == "merge" else self.right + right
        self.pixels += pixels

    def compute(self):
        if not self.pixels:
            if self.fault == "empty":
                return Scores({"right": 0.0, "wrong": 0.0})
            raise InputError("nothing")
        share = self.right / self.pixels
        if self.fault == "spends":
            self.right = 0
        values = {"right": share, "wrong": 1 - share, "extra": 1.0}
        values = {"right": share} if self.fault == "lacks" else {k: values[k] for k in ("right", "wrong")}
        return values if self.fault == "mapping" else Scores(values, {}, {"pixels": self.pixels})


class Reversed(Correct):
    higher_is_better = {"right": True, "wrong": True}  # noqa: RUF012


class NoTarget(Correct):
    target = "pictures"


FAULTS = {
    "update": "update", "tuple": "state", "keys": "state", "tensor": "state", "drifts": "state", "merge": "merge",
    "empty": "empty", "spends": "compute", "lacks": "compute", "mapping": "compute",
}  # fmt: skip


def test_metric_passes_every_clause():
    clauses = {"attributes", "construction", "empty", "update", "state", "compute", "direction", "merge"}
    assert set(check_metric(Correct)) == clauses


@pytest.mark.parametrize("fault", FAULTS)
def test_metric_fault_is_named(fault):
    with pytest.raises(ContractError) as error:
        check_metric(Correct, args={"fault": fault})
    assert error.value.clause == FAULTS[fault], error.value


def test_metric_of_the_wrong_shape():
    for part, clause in ((Reversed, "direction"), (NoTarget, "attributes"), (lambda **_: Correct(), "attributes")):
        with pytest.raises(ContractError) as error:
            check_metric(part)
        assert error.value.clause == clause
    with pytest.raises(ContractError, match=r"\[construction\].*classes"):
        check_metric(SegmentationMetric, classes=())
    with pytest.raises(ContractError, match=r"\[construction\].*border"):
        check_metric("segmentation", args={"border": 2})


def test_a_clip_is_scored_once():
    ids = torch.zeros(8, 12, dtype=torch.int64)
    ids[2:5, 2:5] = 1
    metric = VideoMetric()
    with pytest.raises(InputError, match="call start"):
        metric.update(ids, ids)
    metric.start("a", ids)
    for _ in range(2):
        metric.update(ids, ids)
    state = metric.state()
    with pytest.raises(InputError, match="'a' is scored twice"):
        metric.start("a", ids)
    with pytest.raises(InputError, match="'a' is scored twice"):
        metric.merge(state)
    assert metric.compute().values["J&F-Mean"] == 1


# ---------------------------------------------------------------------- data sets

LAYOUT = Layout(
    name="two-greys",
    title="Two grey images",
    kind="segmentation",
    url="here",
    licence="yours",
    splits=("all",),
    expected=(("<nothing>", "no file is read"),),
    options=(("level", "of grey"),),
)


class Greys(ImageSet):
    def __init__(self, fault, level):
        self.fault, self.level, self.reads = fault, level, 0
        self.classes = () if fault == "classes" else ("sky", "road")
        self.names = ["one", "one" if fault == "twice" else "../two" if fault == "path" else "two"]
        self.problems = ["a file is missing"] if fault == "problems" else []

    def __getitem__(self, index):
        if index > 1 and self.fault != "end":
            raise IndexError(index)
        self.reads += self.fault == "again"
        image = torch.full((3, 6, 8), self.level + 0.01 * self.reads)
        target = torch.zeros(6, 8, dtype=torch.int64)
        if self.fault == "range":
            image = image * 255
        if self.fault == "dtype":
            target = target.int()
        if self.fault == "shape":
            target = target[:5]
        if self.fault == "ids":
            target += 2
        return Sample("one" if self.fault == "name" else self.names[min(index, 1)], image, target)


def reader(fault=None, **changes):
    class Reader(DatasetReader):
        layout = replace(LAYOUT, **changes)

        def open(self, root, split=None, level=0.5):
            if fault == "clips":
                return VideoSet((Clip("a", (root / "a.png",), ()),))
            return [1] if fault == "open" else Greys(fault, level)

    if fault == "any-option":
        Reader.open = lambda self, root, split=None, level=0.5, **options: Greys(None, level)
    return Reader


BREACHES = {
    "open": "open", "problems": "open", "any-option": "options", "twice": "names", "path": "names",
    "classes": "samples", "range": "samples", "dtype": "samples", "shape": "samples", "ids": "samples",
    "name": "samples", "again": "again", "end": "end", "clips": "frames",
}  # fmt: skip


def test_data_set_passes_every_clause(tmp_path):
    clauses = {"layout", "options", "open", "split", "names", "samples", "again", "end"}
    assert set(check_dataset(reader(), tmp_path, options={"level": 0.25})) == clauses


@pytest.mark.parametrize("fault", BREACHES)
def test_data_set_fault_is_named(fault, tmp_path):
    with pytest.raises(ContractError) as error:
        check_dataset(reader(fault), tmp_path)
    assert error.value.clause == BREACHES[fault], error.value


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"splits": ()}, "layout"),
        ({"kind": "pictures"}, "layout"),
        ({"counts": {"val": 3}}, "layout"),
        ({"options": ()}, "options"),
        ({"own_splits": True}, "split"),
    ],
)
def test_data_set_whose_layout_says_otherwise(changes, clause, tmp_path):
    with pytest.raises(ContractError) as error:
        check_dataset(reader(**changes), tmp_path)
    assert error.value.clause == clause, error.value


def test_depth_and_normals_have_units(tmp_path):
    tiny.rgbd(tmp_path)
    assert "samples" in check_dataset("rgbd-folder", tmp_path, options={"target": "normals"})
