"""A process that forks two children for each run of tests/test_clean_ends.py: the imports are paid once.

Both train two steps together (gloo, DistributedDataParallel) and end as a program does: atexit, then the interpreter.
Writes, for each run, both exit statuses and when they ended. A fault is written WHAT-RANK: see `Faulty`.
"""

import gc
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo
import torch.distributed
from accelerate import Accelerator  # noqa: F401
from dense_ctx_maxa.objective import MaxaObjective
from PIL import Image
from ports import free_port

from dense_ctx import registry
from dense_ctx.errors import DenseCtxError, NonFiniteError
from dense_ctx.model_spec import open_model
from dense_ctx.train import TrainConfig, train

WAVE = 6  # runs at once: most of a run is waiting for the other process


class Faulty(MaxaObjective):
    """At step 3, in one process: raise, stay (raise, and do not end), nan, die or term (SIGTERM)."""

    fault, step, folder = "", 0, ""

    def forward(self, model, batch):
        self.step += 1
        losses = super().forward(model, batch)
        if self.step != 3 or not self.fault:
            return losses
        Path(f"{self.folder}.fault").write_text(str(time.time()))
        if self.fault in ("raise", "stay"):
            raise RuntimeError("the objective's own fault")
        if self.fault == "nan":
            raise NonFiniteError("The features: NaN or infinity in pixels")
        os.kill(os.getpid(), signal.SIGKILL if self.fault == "die" else signal.SIGTERM)
        return losses


def both(rank):
    """Wait as an evaluation does, then prepare a training, on a machine with two (pretended) GPUs: each has its own."""
    from pretend_gpu.device import pretend

    from dense_ctx.device import wait_for_everyone
    from dense_ctx.train.processes import prepare_accelerator

    torch.distributed.is_nccl_available = lambda: False  # it would ask the driver
    with pretend() as gpu:
        wait_for_everyone()
        for _ in range(2):  # a second training too
            accelerator, _ = prepare_accelerator(TrainConfig(out="none", steps=1))
            assert accelerator.device == torch.device("cuda", rank), accelerator.device
            assert (accelerator.process_index, accelerator.num_processes) == (rank, 2)
        assert gpu.touched == {rank}


def child(rank, port, folder, how):
    words = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    if how == "srun":
        words = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_STEP_NUM_TASKS": 2, "SLURM_JOB_ID": 71,
                 "SLURM_STEP_ID": 0, "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2"}  # fmt: skip
    words |= {"MASTER_PORT": port, "ACCELERATE_USE_CPU": str(how != "both").lower()}
    os.environ.update({key: str(value) for key, value in words.items()})
    if how == "evaluate":
        from dense_ctx.device import processes, wait_for_everyone

        assert processes() == (rank, 2)
        wait_for_everyone()
        return
    if how == "both":
        return both(rank)
    data = {"name": "rgbd-folder", "root": sys.argv[2]}
    settings = {"out": f"{folder}/run", "steps": 2, "batch_size": 2, "model": "rgb-xy+linear(dim=1)",
                "objective": {"name": "maxa-depth"}, "data": data}  # fmt: skip
    if how in ("train", "srun"):
        train(TrainConfig.from_dict(settings))
        return
    objective, (fault, where) = Faulty("depth"), how.split("-")
    objective.folder = folder
    objective.fault = fault if int(where) == rank else ""
    try:
        train(TrainConfig.from_dict({**settings, "steps": 400}), objective=objective)
    except (DenseCtxError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        if fault == "stay" and int(where) == rank:
            time.sleep(12)  # as a process does that holds on to what it shares with the others
        sys.exit(1)


def main():
    runs, _, folder, hows = int(sys.argv[1]), *sys.argv[2:4], sys.argv[4].split(",")
    torch.set_num_threads(1)
    # what a child would import
    open_model("rgb-xy+linear(dim=1)")
    registry().create("objective", "maxa-depth")
    Image.init()
    gc.collect()
    gc.freeze()  # what is imported need not be searched at the end of every child
    statuses = []
    for start in range(0, runs, WAVE):
        begun = []
        for run in range(start, min(start + WAVE, runs)):
            pids = begin(run, folder, hows[run % len(hows)])
            if pids is None:
                return  # a child: out of the interpreter, as a program ends
            begun.append(pids)
        ended = {}
        while len(ended) < 2 * len(begun):
            pid, status = os.wait()
            ended[pid] = os.waitstatus_to_exitcode(status), time.time()
        statuses += [[ended[pid] for pid in pids] for pids in begun]
    print("STATUS" + json.dumps(statuses))


def begin(run, folder, how):
    """Fork both processes of a run; None in a child, when it is done."""
    port = free_port()
    pids = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            with open(f"{folder}/log-{run}-{rank}", "w") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            child(rank, port, f"{folder}/{run}", how)
            return None
        pids.append(pid)
    return pids


if __name__ == "__main__":
    main()
