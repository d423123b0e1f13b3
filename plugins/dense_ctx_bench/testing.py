"""check_scored_objective: the clauses of `dense_ctx.interfaces.ScoredObjective`, beyond those of any objective."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dense_ctx.data.base import ImageSet
from dense_ctx.data.features import cache_features
from dense_ctx.errors import ConfigError
from dense_ctx.interfaces import Losses, ScoredObjective, Size
from dense_ctx.model import DenseModel
from dense_ctx.testing.common import Clauses, factory
from dense_ctx.testing.tiny import TinyBackbone, TinyDecoder

SIZE, IMAGE_SIZE = (24, 40), (32, 48)  # of outputs and images; H != W, and the strides of TinyBackbone divide them
ROUNDING = 0.01  # features and targets on disk have 16 bits


def check_scored_objective(
    objective: ScoredObjective | str | Callable[..., ScoredObjective],
    train: ImageSet,
    val: ImageSet,
    *,
    args: dict[str, Any] | None = None,
) -> tuple[str, ...]:
    """Verify that a benchmark can train and score with an objective. Run `check_objective` too.

    Args:
        objective: a module, which stays as it is, or a registered name, a class or a function with `args`.
        train: images to train on, two or more.
        val: other images of the same kind.

    Returns:
        The clauses verified: construction, declarations, outputs, lr, score, sizes, features, folder.

    Raises:
        ContractError: a clause is broken.
    """
    check = Clauses("objective", objective)
    bench = _Bench(objective, args or {}, train, val)
    with check.clause("construction") as require:
        part = bench.build()
        require(isinstance(part, ScoredObjective), f"gave a {type(part).__name__}, not a ScoredObjective")
    with check.clause("declarations") as require:
        metric, lower, reads = part.metric, part.lower_is_better, part.reads_features
        require(isinstance(metric, str) and bool(metric), f"metric is {metric!r}, not the name of a score")
        require(isinstance(part.unit, str), f"unit is {part.unit!r}, not a str")
        require(isinstance(lower, bool), f"lower_is_better is {lower!r}, not a bool")
        require(isinstance(reads, bool), f"reads_features is {reads!r}, not a bool")
    with check.clause("outputs") as require:
        task, dataset = bench.open()
        outputs = task.outputs(dataset)
        require(isinstance(outputs, int) and outputs > 0, f"outputs() gave {outputs!r}, not a number of channels")
    model = _model(outputs)
    with check.clause("lr") as require:
        rates = [group.get("lr") for group in task.setup(copy.deepcopy(model), dataset, fresh=True)]
        require(None in rates, f"the parameter groups have lr {rates} of their own: a benchmark's would have no effect")
    plain = _score(check, bench, model)
    _features(check, bench, model, plain)
    _folder(check, bench, model, plain)
    return tuple(check.done)


class _Bench:
    """Does what a benchmark does, in its order."""

    def __init__(self, objective: Any, args: dict[str, Any], train: ImageSet, val: ImageSet) -> None:
        self.train, self.val = train, val
        self.build: Callable[[], Any] = (
            (lambda: copy.deepcopy(objective))
            if isinstance(objective, torch.nn.Module)
            else factory("objective", objective, args)
        )

    def open(self, folder: str | None = None) -> tuple[ScoredObjective, Any]:
        """An objective with its sizes and its data set."""
        objective: ScoredObjective = self.build()
        objective.size, objective.image_size = SIZE, IMAGE_SIZE
        if folder is not None:
            objective.use_folder(folder)
        return objective, objective.dataset(self.train)

    def loss(self, objective: ScoredObjective, dataset: Any, model: DenseModel) -> Tensor:
        """Of the first batch, before any step."""
        torch.manual_seed(0)
        objective.setup(model, dataset, fresh=True)
        batch = next(iter(DataLoader(dataset, batch_size=2, collate_fn=objective.collate)))
        torch.manual_seed(1)
        losses: Losses = objective(model, batch)
        return losses.total.detach()


def _model(outputs: int) -> DenseModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = TinyBackbone()
        decoder = TinyDecoder(backbone.dims, backbone.strides, outputs)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(10)  # so that a prediction depends on its image, and features of another one show
    return DenseModel(backbone, decoder).eval()


@contextmanager
def _calls(model: DenseModel) -> Iterator[tuple[list[Size], list[Size]]]:
    """The sizes of the images that the backbone is given, and those that the decoder is asked for."""
    encoded: list[Size] = []
    decoded: list[Size] = []

    def encode(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        images = arguments[0] if arguments else named["images"]
        encoded.append((images.shape[-2], images.shape[-1]))

    def decode(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        height, width = arguments[2] if len(arguments) > 2 else named["size"]
        decoded.append((height, width))

    hooks = [
        model.backbone.register_forward_pre_hook(encode, with_kwargs=True),
        model.decoder.register_forward_pre_hook(decode, with_kwargs=True),
    ]
    try:
        yield encoded, decoded
    finally:
        for hook in hooks:
            hook.remove()


def _score(check: Clauses, bench: _Bench, model: DenseModel) -> Mapping[str, float]:
    objective, _ = bench.open()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with check.clause("score") as require, _calls(model) as (encoded, decoded):
        scores = objective.score(model, bench.val)
        require(isinstance(scores, dict), f"score() gave a {type(scores).__name__}, not a dict")
        wrong = [name for name, value in scores.items() if not isinstance(value, (int, float))]
        require(not wrong, f"the scores {', '.join(wrong)} are no numbers")
        for name in (objective.metric, "images"):
            require(name in scores, f"score() gave {', '.join(scores) or 'nothing'}, without {name!r}")
        require(math.isfinite(scores[objective.metric]), f"{objective.metric} is {scores[objective.metric]}")
        count = scores["images"]
        require(0 < count <= len(bench.val), f"{count} images counted, of {len(bench.val)}")
        require(not model.training, "score() leaves the model in training mode")
        after = model.state_dict()
        changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
        require(not changed, f"score() changes the model: {', '.join(changed[:3])}")
        again = objective.score(model, bench.val)
        require(_close(again, scores, 1e-5), f"the same model scores {scores}, then {again}")
    with check.clause("sizes") as require:
        require(IMAGE_SIZE in encoded, f"image_size={IMAGE_SIZE} was set; score() encodes images of {encoded[:3]}")
        require(SIZE in decoded, f"size={SIZE} was set; score() decodes outputs of {decoded[:3]}")
    return scores


def _features(check: Clauses, bench: _Bench, model: DenseModel, plain: Mapping[str, float]) -> None:
    with check.clause("features") as require, tempfile.TemporaryDirectory() as folder:
        objective, dataset = bench.open()
        train = cache_features(model, bench.train, Path(folder) / "train", IMAGE_SIZE)
        if not objective.reads_features:
            try:
                objective.use_features(train)
            except ConfigError:
                return
            require(False, "use_features() takes features although reads_features is False")
        loss = bench.loss(*bench.open(), copy.deepcopy(model))
        val = cache_features(model, bench.val, Path(folder) / "val", IMAGE_SIZE)
        objective.use_features(train)
        with _calls(model) as (encoded, _):
            stored = bench.loss(objective, dataset, model)
            model.eval()
            scores = objective.score(model, bench.val, features=val)
        require(not encoded, "the backbone runs although its features are given")
        same = torch.allclose(stored, loss, rtol=ROUNDING, atol=ROUNDING)
        require(same, f"the loss of the same batch is {loss:.4g}, from features {stored:.4g}")
        require(_close(scores, plain, ROUNDING), f"the same model scores {plain}, from features {scores}")


def _folder(check: Clauses, bench: _Bench, model: DenseModel, plain: Mapping[str, float]) -> None:
    with check.clause("folder") as require, tempfile.TemporaryDirectory() as folder:
        loss = bench.loss(*bench.open(), copy.deepcopy(model))
        for run in ("first", "second"):
            objective, dataset = bench.open(folder)
            stored = bench.loss(objective, dataset, copy.deepcopy(model))
            same = torch.allclose(stored, loss, rtol=ROUNDING, atol=ROUNDING)
            require(same, f"the loss is {loss:.4g}, of the {run} run that uses a folder {stored:.4g}")
            scores = objective.score(model, bench.val)
            require(_close(scores, plain, ROUNDING), f"scores are {plain}, of the {run} run with a folder {scores}")


def _close(scores: Mapping[str, float], others: Mapping[str, float], tolerance: float) -> bool:
    """Whether all scores agree, relative to numbers above 1; NaN is NaN."""
    pairs = [(scores.get(name, math.inf), value) for name, value in others.items()]
    return all(
        abs(one - two) <= tolerance * max(1.0, abs(two)) or (math.isnan(one) and math.isnan(two)) for one, two in pairs
    )
