"""The policy of devices and processes: what a launcher says, which device a process takes, what is refused."""

import os
import threading
import time
import types
import warnings
from collections import Counter

import pytest
import torch
from train_parts import config

from dense_ctx.device import check_alike, join_group, pick_device, processes
from dense_ctx.errors import ConfigError, DenseCtxError, InputError, MemoryBudgetError
from dense_ctx.gateway import gateway
from dense_ctx.train.data import reader_count
from dense_ctx.train.processes import ending_together, prepare_accelerator

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


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({**TORCHRUN, "WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({**TORCHRUN, "WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2'"),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({**TORCHRUN, "WORLD_SIZE": ""}, "WORLD_SIZE is not set"),
        ({"RANK": "0"}, "WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({**TORCHRUN, "RANK": "first"}, "RANK is 'first'"),
        ({**TORCHRUN, "RANK": "2"}, "RANK is '2'"),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS is 'many'"),
        *(({**SRUN, name: ""}, f"{name} is not set") for name in SRUN if name != "SLURM_STEP_NUM_TASKS"),
        *(({**SRUN, name: "x"}, f"{name} is 'x'") for name in SRUN if name != "SLURM_STEP_NODELIST"),
    ],
)
def test_a_launchers_variable_that_is_missing_or_no_number_is_named(launched, words, message):
    launched(**words)
    before = dict(os.environ)
    for _ in range(2):  # nothing is half done by the first
        with pytest.raises(ConfigError) as refusal:
            processes()
        assert str(refusal.value).startswith(f"{message}; expected what torchrun, accelerate launch or srun set")
        assert "unset RANK, WORLD_SIZE, LOCAL_RANK and SLURM_STEP_NUM_TASKS" in str(refusal.value)
        assert dict(os.environ) == before


def test_a_local_rank_or_count_that_is_no_number_is_named(launched):
    launched(**{**TORCHRUN, "LOCAL_RANK": "x"})
    with pytest.raises(ConfigError, match="LOCAL_RANK is 'x'; expected what torchrun"):
        pick_device("cpu")
    launched(**{**TORCHRUN, "LOCAL_RANK": ""})
    with pytest.raises(ConfigError, match="LOCAL_RANK is not set; expected what torchrun"):
        pick_device("cpu")
    launched(**{**TORCHRUN, "LOCAL_WORLD_SIZE": "two"})
    with pytest.raises(ConfigError, match="LOCAL_WORLD_SIZE is 'two'; expected what torchrun"):
        reader_count(torch.device("cuda"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"MASTER_PORT": "29500"}, "MASTER_ADDR is not set"),
        ({"MASTER_ADDR": "127.0.0.1"}, "MASTER_PORT is not set"),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "two"}, "MASTER_PORT is 'two'"),
    ],
)
def test_where_processes_meet_is_said_or_its_variable_is_named(launched, words, message):
    launched(**TORCHRUN, **words)
    with pytest.raises(ConfigError, match=f"{message}; expected what torchrun"):
        join_group("cpu")


def test_an_empty_local_rank_of_one_process_is_none(launched, tmp_path):
    launched(LOCAL_RANK="")
    accelerator, _ = prepare_accelerator(config(tmp_path, device="cpu"))
    assert accelerator.num_processes == 1


def test_each_process_takes_its_own_device(launched, monkeypatch):
    choices = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", choices.append)
    launched()
    names = {"auto": "cuda:2", "cuda": "cuda:2", "cuda:3": "cuda:3", "cuda:01": "cuda:1", "cpu": "cpu", "cpu:0": "cpu"}
    assert {name: pick_device(name) for name in names} == names
    assert choices == [2, 2, 3, 1]
    launched(RANK="5", WORLD_SIZE="8", LOCAL_RANK="1")
    assert [pick_device(name) for name in ("auto", "cuda")] == ["cuda:1", "cuda:1"]
    with pytest.raises(InputError, match="cuda:3 is one for 8 processes: write cuda"):
        pick_device("cuda:3")
    launched()
    for name in ("cuda:4", "cuda:x", "phone", "meta"):
        with pytest.raises(InputError, match=f"no device '{name}' here: cpu, cuda:0, cuda:1, cuda:2, cuda:3, or auto"):
            pick_device(name)


class Store:
    """Where processes meet, of this process alone."""

    def __init__(self):
        self.words, self.counts = {}, Counter()

    def clone(self):
        return self

    def check(self, keys):
        return all(key in self.words for key in keys)

    def get(self, key):
        return self.words[key]

    def compare_set(self, key, expected, value):
        return self.words.setdefault(key, value.encode())

    def add(self, key, amount):
        self.counts[key] += amount
        return self.counts[key]


@pytest.mark.parametrize(("world", "late", "least", "most"), [("2", 0, 0, 1.5), ("3", 1, 0.8, 2.5)])
def test_a_process_whose_peer_was_killed_waits_for_no_word_of_it(launched, monkeypatch, world, late, least, most):
    launched(RANK="0", WORLD_SIZE=world)
    store, began = Store(), time.monotonic()
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: store)

    def read():  # a third process, after a while
        time.sleep(late)
        store.add(next(iter(store.words)) + "/read", 1)

    @ending_together()
    def work():
        if late:
            threading.Thread(target=read, daemon=True).start()
        raise RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer")

    with pytest.raises(DenseCtxError, match="another process was killed"):
        work()
    assert least < time.monotonic() - began < most


def test_a_fault_of_ones_own_that_names_a_folder_like_a_backend_is_said_as_it_is(launched, monkeypatch):
    launched(RANK="0", WORLD_SIZE="2")
    store = Store()
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(store, "add", lambda key, amount: 2)  # the other reads at once

    @ending_together()
    def work():
        raise FileNotFoundError("No such file: '/data/igloo/0001.png'")

    with pytest.raises(FileNotFoundError):
        work()
    assert list(store.words.values()) == [b"process 0 failed: FileNotFoundError: No such file: '/data/igloo/0001.png'"]


A100, H100 = "NVIDIA A100", "NVIDIA H100"


@pytest.mark.parametrize(
    ("device", "others", "message"),
    [
        ("cuda:0", (H100, "cuda", "bf16"), None),
        ("cuda:0", (A100, "cuda", "bf16"), "each step waits for the slowest.*process 1: NVIDIA A100"),
        (
            "cuda:0",
            ("Tesla V100", "cuda", "no"),
            "differently.*process 0: NVIDIA H100, bf16.*V100, no.*set device",
        ),
        ("cpu", (H100, "cuda", "bf16"), "compute differently.*process 0: cpu"),
    ],
)
def test_processes_with_other_cards(launched, monkeypatch, device, others, message):
    launched(RANK="0", WORLD_SIZE="2")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: H100)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="GPU-0"))

    def gather(cards, own):
        cards[:] = [own, (others, "another machine's")]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    if message is None or "slowest" in message:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            check_alike(device, "bf16")
        assert len(said) == (message is not None)
        if message:
            with pytest.warns(UserWarning, match=message):
                check_alike(device, "bf16")
    else:
        with pytest.raises(ConfigError, match=message):
            check_alike(device, "bf16")
    launched()
    check_alike(device, "bf16")  # one process asks nobody


def test_processes_that_share_a_gpu_are_refused(launched, monkeypatch):
    launched(RANK="0", WORLD_SIZE="3")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: H100)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="GPU-0"))

    def gather(cards, own):
        cards[:] = [own, (own[0], "GPU-1"), own]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(ConfigError, match="Processes 0, 2 share a GPU: start as many on a machine as it has"):
        check_alike("cuda:0", "bf16")


def test_a_device_out_of_memory_says_the_budget_that_it_has(monkeypatch):
    free = {"bytes": 1e9}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free["bytes"]), int(80e9)))

    class Held:
        def __del__(self):
            free["bytes"] = 40e9

    def forward(max_memory=None):
        held = Held()
        raise torch.OutOfMemoryError(f"CUDA out of memory {held is None}")

    inner = gateway(forward)
    with pytest.raises(MemoryBudgetError, match=r'cuda:1 has 40 GB of 80 free now: max_memory="36GB" .* or take'):
        inner()

    def features():
        return inner()

    def predict(max_memory=None):
        return inner()

    def fit(max_memory=None):
        return gateway(predict)()

    windows, smaller = 'now: max_memory="36GB"', "now: take smaller images, or another device"
    for function, said in ((features, smaller), (predict, windows), (fit, windows)):
        with pytest.raises(MemoryBudgetError, match=f"{function.__name__}: OutOfMemoryError: .* {said}"):
            gateway(function)()  # the outermost function has the arguments that its caller may change

    def train():
        return forward()

    train.__qualname__ = "train"
    with pytest.raises(MemoryBudgetError, match="Raise accumulate"):
        gateway(train)()


@pytest.mark.parametrize(
    ("device", "system", "cores", "processes_here", "readers"),
    [
        ("cpu", "linux", 16, 1, 0),
        ("cuda:0", "linux", 16, 1, 8),
        ("cuda:0", "linux", 16, 4, 3),
        ("cuda:1", "linux", 2, 2, 1),
        ("cuda:0", "win32", 16, 1, 0),
        ("mps", "darwin", 8, 1, 0),
    ],
)
def test_workers_are_of_the_machine(monkeypatch, device, system, cores, processes_here, readers):
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes_here))
    assert reader_count(torch.device(device)) == readers
