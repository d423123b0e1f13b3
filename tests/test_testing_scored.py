"""check_scored_objective passes a right objective, and names the clause that a wrong one breaks."""

import pytest
from bench_parts import Depth, Plain, Reader
from dense_ctx_bench.testing import check_scored_objective
from maxa_scenes import Boxes

from dense_ctx.data import Subset
from dense_ctx.errors import ContractError, InputError

TRAIN, VAL = Boxes("depth", count=4), Boxes("depth", count=3, first=4)
CLAUSES = {"construction", "declarations", "outputs", "lr", "score", "sizes", "features", "folder"}
FAULTS = {
    "declarations": "metric is ''",
    "outputs": "outputs() gave 0",
    "lr": "the parameter groups have lr [0.001] of their own",
    "no metric": "without 'error'",
    "no count": "without 'images'",
    "words": "the scores error are no numbers",
    "nan": "error is nan",
    "nothing": "score() gave a NoneType",
    "mode": "leaves the model in training mode",
    "random": "the same model scores",
    "sizes": "score() decodes outputs of [(16, 16), ",
    "use_features": "use_features() takes features although reads_features is False",
    "folder": "of the first run that uses a folder",
}
OF_SCORE = ("no metric", "no count", "words", "nan", "nothing", "mode", "random")


@pytest.mark.parametrize("objective", [Depth, Reader, Reader()])
def test_a_right_objective_passes_every_clause(objective):
    assert set(check_scored_objective(objective, TRAIN, VAL)) == CLAUSES


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault):
    clause = "score" if fault in OF_SCORE else "features" if fault == "use_features" else fault
    with pytest.raises(ContractError) as error:
        check_scored_objective(Depth, TRAIN, VAL, args={"fault": fault})
    assert error.value.clause == clause
    assert FAULTS[fault] in str(error.value)


@pytest.mark.parametrize(("fault", "words"), [("features", "differ|from features"), ("not used", "backbone runs")])
def test_features_from_disk_must_be_read_and_be_the_image_s_own(fault, words):
    with pytest.raises(ContractError, match=words) as error:
        check_scored_objective(Reader, TRAIN, VAL, args={"fault": fault})
    assert error.value.clause == "features"


def test_an_objective_that_cannot_score():
    with pytest.raises(ContractError, match=r"\[construction\].*gave a Plain, not a ScoredObjective"):
        check_scored_objective(Plain, TRAIN, VAL)
    with pytest.raises(InputError, match="name of a objective"):
        check_scored_objective(3, TRAIN, VAL)


def test_a_subset_is_the_images_of_its_indices():
    part = Subset(VAL, [2, 0])
    assert (part.kind, part.classes, list(part.names), len(part)) == ("depth", (), ["box-6", "box-4"], 2)
    for index, whole in enumerate((2, 0)):
        assert part[index].name == part.names[index]
        assert part[index].image.equal(VAL[whole].image)
    assert Subset(part, [1]).names == ["box-4"]
