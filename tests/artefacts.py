"""Every kind of thing that is saved, in versions told apart by a number: what the tests of saving share.

A kind saves a version at a place, and reads back which version lies there, after asserting that all of it is of that
one version.
"""

import contextlib
import os
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from dense_ctx_lila.cue_cache.shards import ClipShard, ShardWriter
from dense_ctx_maxa.target_cache import TargetCache
from dense_ctx_maxa.tasks import create_task
from dense_ctx_predict.context_files import load_context, save_context
from dense_ctx_probes.text import TextEmbeddings
from safetensors.torch import load_file
from test_evaluate_result import made as result_of

from dense_ctx import AutoDenseModel, InContext
from dense_ctx.data.cache import Shard, write_shard
from dense_ctx.errors import FileError
from dense_ctx.evaluate import Result
from dense_ctx.persistence.artefact import read_object
from dense_ctx.testing import tiny_model
from dense_ctx.train import TrainStep, state


def same(values, number):
    assert bool((values == number).all()), f"{values.unique().tolist()} where all is {number}"


class Model:
    """A model folder: parameters, and what its configuration says of the training."""

    def __init__(self):
        self.model = AutoDenseModel.from_parts("sandbox", "sandbox")

    def save(self, place, number):
        with torch.no_grad():
            for parameter in self.model.decoder.parameters():
                parameter.fill_(number)
        self.model.save_pretrained(place, trained_with={"number": number})

    def load(self, place):
        model = AutoDenseModel.from_pretrained(place)
        number = model.model_config.trained_with["number"]
        for parameter in model.decoder.parameters():
            same(parameter, number)
        return number


class Context:
    """A fitted context: its classes and its probe."""

    def __init__(self):
        self.model = tiny_model()

    @cache  # noqa: B019
    def fitted(self, number):
        generator = torch.Generator().manual_seed(number)
        image, mask = torch.rand(3, 16, 24, generator=generator), torch.full((16, 24), 10 * number)
        mask[:, 12:] += 1
        return InContext(self.model).fit(image, mask)

    def save(self, place, number):
        save_context(self.fitted(number), place)

    def load(self, place):
        context = load_context(place, self.model)
        number = context.classes_[0] // 10
        expected = self.fitted(number)
        assert context.classes_ == expected.classes_
        for name, value in expected.probe_.state_dict().items():
            assert torch.equal(context.probe_.state_dict()[name], value)
        return number


class State:
    """A training state: its numbers, weights and moments."""

    def __init__(self):
        from sandbox_train.parts import Shift

        model = AutoDenseModel.from_parts("sandbox", "sandbox")
        objective = Shift()
        self.step = TrainStep(model, objective, objective.dataset({}))
        self.optimizer = torch.optim.AdamW(self.step.groups)
        for parameter in self.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()

    def parameters(self):
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def save(self, place, number):
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(number)
                self.optimizer.state[parameter]["exp_avg"].fill_(number)
        meta = state.Meta(number, float(number), 1, {"out": "run", "steps": 9}, "")
        state.write(place, self.step, self.optimizer, {}, meta)

    def load(self, place):
        state.check(place)
        state.load(place, self.step, self.optimizer)  # another saving than the one checked, where writers go on
        words, tensors = state.STATE.read(
            place, lambda part: read_object(part / state.META), lambda part: load_file(part / state.TENSORS)
        )
        trained = {name[10:].rpartition("/")[0] for name in tensors if name.startswith("optimizer.")}
        for name in trained:
            same(tensors[f"module.{name}"], words["step"])
            same(tensors[f"optimizer.{name}/exp_avg"], words["step"])
        for parameter in self.parameters():
            assert len(parameter.unique()) == 1
        return words["step"]


class Text:
    """A file of text embeddings; fitted probes of an evaluation and decoders of a benchmark are written by the same."""

    def save(self, place, number):
        TextEmbeddings(("a", f"b{number}"), torch.full((2, 64), float(number)), "m", ("{}",)).save(place)

    def load(self, place):
        embeddings = TextEmbeddings.load(place)
        number = int(embeddings.classes[1][1:])
        same(embeddings.vectors, number)
        return number


class CacheShard:
    """A shard of a feature cache."""

    def save(self, place, number):
        write_shard(place, {"map0": torch.full((3, 8, 4), float(number)), "cls": torch.full((3, 8), float(number))})

    def load(self, place):
        shard = Shard(place)
        assert set(shard.specs) == {"map0", "cls"}, shard.specs
        number = int(shard.row("map0", 0)[0, 0])
        for name in shard.specs:
            same(shard.tensor(name), number)
        assert shard.tensor("map0").dtype == torch.float32
        return number


class Images(list):
    names = ("a", "b")


class Targets:
    """A target of MAXA, in the folder of its cache; its writer does not wait for the disk."""

    def opened(self, place):
        return TargetCache(place, create_task("depth"), Images(), (8, 4))

    def save(self, place, number):
        self.opened(place).put(1, torch.full((1, 8, 4), float(number)))

    def load(self, place):
        target = self.opened(place).get(1)
        if target is None:
            raise FileError("missing or damaged: it is made again")
        assert target.shape == (1, 8, 4)
        same(target, int(target[0, 0, 0]))
        return int(target[0, 0, 0])


class CueShard:
    """A clip of a cue cache."""

    def save(self, place, number):
        with ShardWriter(place) as writer:
            writer.append(torch.full((2, 2, 1, 8, 8), float(number)))
            writer.append(torch.full((1, 2, 1, 8, 8), float(number)))
            writer.finish({"frames": "4", "video": '{"size": "9"}'})

    def load(self, place):
        shard = ClipShard(place)
        maps = shard.tensor("maps")
        assert maps.shape == (3, 2, 1, 8, 8)
        assert (shard.frames, shard.size, shard.video) == (4, (8, 8), {"size": "9"})
        same(maps, int(maps[0, 0, 0, 0, 0]))
        return int(maps[0, 0, 0, 0, 0])


class Report:
    """The result of an evaluation; its `run` (times, command) is not vouched for."""

    def save(self, place, number):
        replace(result_of(value=float(number)), std=float(number)).save(place)

    def load(self, place):
        result = Result.load(place)
        assert replace(result, run={}) == replace(result_of(value=result.value), std=result.std, run={})
        assert result.std == result.value
        return int(result.value)


KINDS = {
    "model": Model,
    "context": Context,
    "state": State,
    "text": Text,
    "feature cache": CacheShard,
    "target cache": Targets,
    "cue cache": CueShard,
    "result": Report,
}
FOLDERS = ("model", "context", "state")
VOUCHED = {"model": ("config.json", "model.safetensors", "manifest.json")}  # of the others, every file


def place_of(kind, folder):
    """Where a kind is saved in a folder of the test."""
    return folder / "artefact" if kind in FOLDERS else folder / f"artefact.{'json' if kind == 'result' else 'st'}"


def files_of(kind, place):
    if kind == "target cache":
        return sorted(path for path in place.rglob("*") if path.is_file())
    if kind not in FOLDERS:
        return [place]
    return sorted(path for path in place.iterdir() if path.name in VOUCHED.get(kind, (path.name,)))


@contextlib.contextmanager
def one_thread():
    """A forked process has none of the threads of its parent, for which some kernels would wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def forked(work):
    """Process number of a child that does `work` and ends with 0, or with 1 where that fails."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def ended(pid):
    """How a child ended: 0, 1, or -9 for a kill."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


_calls = [0, -1, ""]  # calls to the file system so far, the one at which to die, and where they count
_EVENTS = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.truncate", "shutil.copyfile")


def _count():
    _calls[0] += 1
    if _calls[0] == _calls[1]:
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(event, arguments):
    if event in _EVENTS or (event == "open" and str(arguments[0]).startswith(_calls[2])):
        _count()


def dies_at(number, root: Path, work):
    """Do `work` in a child that is killed just before its `number`-th call to the file system; how it ended."""

    def child():
        import sys

        _calls[:] = [0, number, str(root)]
        sync = os.fsync
        os.fsync = lambda handle: (_count(), sync(handle))
        sys.addaudithook(_watch)
        work()

    return ended(forked(child))
