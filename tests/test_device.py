"""The policy of devices and processes: what a launcher says, which device a process takes, what is refused."""

import pytest
import torch

from dense_ctx.device import pick_device, processes
from dense_ctx.errors import InputError

SRUN = {
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2", "SLURM_STEP_NODELIST": "gpu[007-008,11]", "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}  # fmt: skip
TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def launched(monkeypatch):
    """Set a launcher's variables, and no other's; what is set from them goes too."""

    def launch(**words):
        for name in (*TORCH, *SRUN):
            monkeypatch.setenv(name, "")  # so that it is restored
            monkeypatch.delenv(name)
        for name, value in words.items():
            monkeypatch.setenv(name, value)

    return launch


def test_srun_is_told_in_torchruns_words(launched):
    import os

    launched(**SRUN)
    assert processes() == (5, 8)
    assert {name: os.environ[name] for name in TORCH} == {
        "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "gpu007",
        "MASTER_PORT": str(20_000 + 47112 % 20_000),
    }  # fmt: skip
    for nodes, first in (("a,b", "a"), ("n3", "n3"), ("rack1-n[1,5]", "rack1-n1")):
        launched(**{**SRUN, "SLURM_STEP_NODELIST": nodes})
        processes()
        assert os.environ["MASTER_ADDR"] == first
    launched(**SRUN, MASTER_ADDR="elsewhere", MASTER_PORT="29500")
    processes()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("elsewhere", "29500")


def test_one_process_and_torchrun_within_srun(launched):
    launched()
    assert processes() == (0, 1)
    launched(SLURM_PROCID="0", SLURM_NTASKS="8", SLURM_JOB_ID="1")  # in a batch script, outside of srun
    assert processes() == (0, 1)
    launched(**SRUN, RANK="1", WORLD_SIZE="2", LOCAL_RANK="1")
    assert processes() == (1, 2)


def test_each_process_takes_its_own_device(launched, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    launched()
    assert [pick_device(name) for name in ("auto", "cuda", "cuda:3", "cpu")] == ["cuda:2", "cuda:2", "cuda:3", "cpu"]
    assert chosen == [2, 2, 3]
    launched(RANK="5", WORLD_SIZE="8", LOCAL_RANK="1")
    assert [pick_device(name) for name in ("auto", "cuda")] == ["cuda:1", "cuda:1"]
    with pytest.raises(InputError, match="cuda:3 is one for 8 processes: write cuda"):
        pick_device("cuda:3")
    launched()
    for name in ("cuda:4", "cuda:x", "phone"):
        with pytest.raises(InputError, match=f"no device '{name}' here: cpu, cuda:0, cuda:1, cuda:2, cuda:3, or auto"):
            pick_device(name)
