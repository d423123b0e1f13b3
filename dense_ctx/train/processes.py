"""The end of a process group, in an order that leaves no thread behind."""

import gc

import torch


def end_process_group() -> None:
    """Leave the default process group of torch.distributed, if there is one.

    A DistributedDataParallel wrapper holds the group in a reference cycle, and with it the group's threads. A thread
    that asks for the interpreter's lock while the interpreter ends aborts the process ("terminate called without an
    active exception"), so wrappers go first.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()
        gc.collect()
