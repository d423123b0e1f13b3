"""Two processes on a shared file system, for tests/test_shared_disk.py: forked by one that has imported everything.

Each child sees the disk as a machine of its own does: calls take long, files of the other appear late, the clocks and
names of the machines differ, hard links may not exist. Of Python's own calls alone; what safetensors reads in Rust is
as it is. Writes for each case what each of the two came to, and when it had begun and ended.
"""

import builtins
import errno
import gc
import io
import json
import math
import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path

import torch
from dense_ctx_predict import Predictor
from evaluation_data import camvid
from test_feature_cache import Pictures
from train_parts import config, install

from dense_ctx import AutoDenseModel, InContext, cli
from dense_ctx.data.features import fill_cache
from dense_ctx.errors import DenseCtxError
from dense_ctx.persistence.identity import Identity
from dense_ctx.persistence.lock import locked
from dense_ctx.testing.tiny import TinyBackbone, tiny_model
from dense_ctx.train import train

SLOW, LATE, SKEW = 0.05, 0.6, 3600.0  # seconds: of a call that changes the disk, until others see it, between clocks
HOLD = 1.5  # seconds that work under a lock takes


def far_disk(host, links=True):
    """From now on, this process is on machine `host`, and the disk is not its own."""
    own, status, rename, link, open_file, clock = set(), os.stat, os.replace, os.link, io.open, time.time

    def seen(path, *args, **kwargs):
        info = status(path, *args, **kwargs)
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path).startswith(sys.argv[1]):
            return info
        if clock() - info.st_ctime < LATE and stat.S_ISREG(info.st_mode) and info.st_ino not in own:
            raise FileNotFoundError(errno.ENOENT, "not seen yet", os.fspath(path))
        return info

    def opened(path, mode="r", *args, **kwargs):
        writes = any(letter in mode for letter in "wax+")
        if not writes and isinstance(path, (str, os.PathLike)):
            seen(path)
        file = open_file(path, mode, *args, **kwargs)
        if writes and isinstance(path, (str, os.PathLike)):
            own.add(os.fstat(file.fileno()).st_ino)
        return file

    def late(change):
        def call(source, target, *args, **kwargs):
            time.sleep(SLOW)
            change(source, target, *args, **kwargs)
            time.sleep(SLOW)

        return call

    def no_link(source, target, *args, **kwargs):
        raise OSError(errno.EPERM, "no links")

    os.stat, os.replace, os.link = seen, late(rename), late(link) if links else no_link
    io.open = builtins.open = opened
    socket.gethostname = lambda: host
    time.time = lambda: clock() + (SKEW if host == "node1" else 0)


def inside(folder):
    """Work that no two may do at once."""
    marker = folder / "inside"
    handle = os.open(marker, os.O_CREAT | os.O_EXCL)
    time.sleep(HOLD)
    os.close(handle)
    os.unlink(marker)


def lock(folder, rank, wait):
    with locked(folder / "work", "The folder work", wait):
        inside(folder)


def killed(folder, rank, host):
    with locked(folder / "work", "The folder work", 0):
        if rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def claim(folder, rank):
    Identity(folder / "work/manifest.json", "feature cache").claim({"rank": rank, "text": str(rank) * 50_000})


def features(folder, rank, side):
    torch.manual_seed(0)
    fill_cache(TinyBackbone(), Pictures(70), folder / "cache", (side, 36), batch=2)


def cues(folder, rank):
    arguments = ["cues", f"{sys.argv[1]}/data/train/images", "--cues", "flow:dis", "--gaps", "1", "--device", "cpu"]
    command([*arguments, "--out", str(folder / "cues")])


def predict(folder, rank):
    arguments = ["--model", "rgb-xy+upsample", "--device", "cpu", "--method", "ridge", "--out", str(folder / "out")]
    root = f"{sys.argv[1]}/data/train"
    pair = f"{root}/images/{NAMES[0]}:{root}/labels/{NAMES[0]}"
    command(["predict", "--support", pair, "--query", f"{root}/images", *arguments])


def model(folder, rank):
    torch.manual_seed(rank)
    own = AutoDenseModel.from_parts("rgb-xy", "linear", decoder_args={"dim": 2 + rank})
    own.save_pretrained(folder / "model")
    dim = AutoDenseModel.from_pretrained(folder / "model").dim
    assert dim in (2, 3), dim


def predictor(folder, rank):
    image, mask = torch.rand(3, 24, 40), torch.zeros(24, 40).long()
    mask[:, 20:] = 1 + rank
    Predictor(InContext(AutoDenseModel.from_parts("rgb-xy", "upsample"), "ridge").fit(image, mask)).save(folder / "p")
    assert [c.id for c in Predictor.from_pretrained(folder / "p").classes] in ([0, 1], [0, 2])


def training(folder, rank, wait):
    train(config(folder / "run", steps=6, data={"samples": 7, "slow": 0.1}, wait=wait, save={"every": 2}))


def command(arguments):
    if status := cli.main(arguments):
        raise DenseCtxError(f"status {status}")


NAMES = []
CASES = {
    "lock refused": (lock, 0.0),
    "lock waits": (lock, math.inf),
    "lock without links": (lock, math.inf),
    "killed on another machine": (killed, "node0"),
    "killed on the same machine": (killed, "same"),
    "claim": (claim,),
    "claim without links": (claim,),
    "features": (features, 20),
    "features of other settings": (features, 20),
    "cues": (cues,),
    "predict": (predict,),
    "model": (model,),
    "predictor": (predictor,),
    "training refused": (training, False),
    "training waits": (training, True),
}


def child(case, folder, rank, first):
    work, *options = CASES[case]
    if case == "features of other settings" and rank:
        options = [24]
    same = case == "killed on the same machine"
    far_disk("node0" if same else f"node{rank}", links="without links" not in case)
    began = time.monotonic()
    if rank != first and first is not None:
        time.sleep(0.4)
    if case.startswith("killed") and rank:
        time.sleep(0.6)
    outcome = "done"
    try:
        work(folder, rank, *options)
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    arguments = {"outcome": outcome, "began": began, "ended": time.monotonic(), "pid": os.getpid()}
    with os.fdopen(os.open(folder / f"outcome-{rank}.json", os.O_CREAT | os.O_WRONLY), "w") as file:
        json.dump(arguments, file)


def main():
    root, cases = Path(sys.argv[1]), sys.argv[2].split(",")
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "1"

    class Path_:  # what monkeypatch does, for good
        def syspath_prepend(self, path):
            sys.path.insert(0, str(path))

        setattr = staticmethod(setattr)

        def delitem(self, mapping, key):
            del mapping[key]

    install(root / "site", Path_())
    NAMES.extend(sorted(p.name for p in (camvid(root / "data", 3, 1) / "train/images").iterdir()))
    tiny_model()
    AutoDenseModel.from_parts("rgb-xy", "upsample")
    gc.collect()
    gc.freeze()
    pids = []
    for case in cases:
        for first in (0,) if case.startswith("killed") else (0, 1, None):
            folder = root / f"{case.replace(' ', '-')}-{first}"
            folder.mkdir()
            for rank in (0, 1):
                pid = os.fork()
                if pid == 0:
                    log = os.open(folder / f"log-{rank}", os.O_CREAT | os.O_WRONLY)
                    os.dup2(log, 1)
                    os.dup2(log, 2)
                    try:
                        child(case, folder, rank, first)
                    finally:
                        sys.stdout.flush()
                        sys.stderr.flush()
                        os._exit(0)
                pids.append(pid)
        while pids:  # one case at a time: its three orders beside each other
            os.waitpid(pids.pop(), 0)


if __name__ == "__main__":
    main()
