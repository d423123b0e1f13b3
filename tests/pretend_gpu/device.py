"""Two CUDA devices that are none: tensors that say cuda:0 or cuda:1, whose values are computed on the CPU.

    with pretend() as gpu:
        model.to("cuda:1"); model(images)       # the real values; tensors of two devices do not mix, as on CUDA
    gpu.launches, gpu.waits, gpu.uploads        # how often what was done, by (place in dense_ctx, operation)
    gpu.bytes                                   # of the uploads that are copies
    gpu.touched                                 # the devices on which anything was done: {1}

It shows where tensors are, in forward and backward, in branches that depend on values, under CUDA's own autocast; and
counts operations the host launches, and waits of the host for the device. It does not show kernels that CUDA lacks,
speed, memory, or CUDA's own arithmetic. `library()` needs a C++ compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

HERE = Path(__file__).parent
DEVICES = 2
# the host needs a value or a shape, or asks whether a solver failed
WAITS = {
    "_local_scalar_dense", "nonzero", "argwhere", "masked_select", "masked_scatter", "equal", "is_nonzero", "bincount",
    "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive", "repeat_interleave",
    "linalg_eigh", "_linalg_eigh", "_linalg_svd", "_linalg_check_errors", "linalg_cholesky", "linalg_inv_ex_check",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
COPIES = {"copy_", "_to_copy", "set_"}  # between devices too
NO_KERNEL = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "resize_", "_unsafe_view",
             "_local_scalar_dense"}  # fmt: skip


def compiler() -> str | None:
    """The C++ compiler, if there is one."""
    return next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)


@functools.cache
def library() -> ctypes.CDLL:
    """The guard, compiled once for each torch and source, and loaded into this process for good."""
    source, root = HERE / "guard.cpp", Path(torch.__file__).parent
    key = hashlib.sha256(source.read_bytes() + torch.__version__.encode() + str(root).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"pretend_gpu-{getattr(os, 'getuid', int)()}-{key}.so"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}")
        words = [
            compiler(),
            "-std=c++20",
            "-O1",
            "-shared",
            "-fPIC",
            f"-I{root}/include",
            str(source),
            "-o",
            str(partial),
        ]
        subprocess.run([*words, f"-L{root}/lib", "-lc10", "-ltorch_cpu"], check=True)
        partial.replace(path)
    return ctypes.CDLL(str(path))


class OnDevice(torch.Tensor):
    """A tensor on a pretended device; `host` has its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    host: torch.Tensor

    @staticmethod
    def __new__(cls, host, device):
        sparse = host.layout != torch.strided  # what takes its parts asks the CPU's tensor
        layout = {} if sparse else {"strides": host.stride(), "storage_offset": host.storage_offset()}
        own = torch.Tensor._make_wrapper_subclass(cls, host.shape, dtype=host.dtype, device=device, **layout)
        own.host = host
        return own

    def __init__(self, host, device):
        pass

    def __repr__(self, *, tensor_contents=None):
        return f"OnDevice({list(self.shape)}, {self.dtype}, {self.device})"

    def __format__(self, spec):
        return format(self.item(), spec) if self.ndim == 0 else repr(self)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy it first.")

    __array__ = numpy

    def __tensor_flatten__(self):
        return ["host"], self.device

    @staticmethod
    def __tensor_unflatten__(inner, device, size, stride):
        return OnDevice(inner["host"], device)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if not _MODES:
            raise RuntimeError(f"{function} of a pretended tensor outside of pretend()")
        return _MODES[-1].run(function, args, kwargs or {})


FULL = """
def full(model, images):
    if len(images) > most[0]:
        raise torch.OutOfMemoryError(f"CUDA out of memory: {len(images)} images")
    return encode(model, images)
"""


def without_room(most: list[int]):
    """`DenseModel.encode` as it is where a device has no memory for more than `most[0]` images."""
    from dense_ctx.model import DenseModel

    # in a module of ours: an error of the user's own code would pass unchanged
    scope = {"__name__": "dense_ctx", "torch": torch, "encode": DenseModel.encode, "most": most}
    exec(FULL, scope)
    return scope["full"]


class MixedDevices(RuntimeError):
    """What CUDA refuses: tensors of two devices in one operation."""


_MODES: list[Pretend] = []


class Pretend(TorchDispatchMode):
    """All of PyTorch's operations while the devices are pretended, and what was counted; see the module."""

    def __init__(self):
        super().__init__()
        self.whole = set()  # operations without a decomposition
        self.clear()

    def clear(self):
        """Start to count again."""
        self.launches, self.waits, self.uploads, self.bytes = Counter(), Counter(), Counter(), Counter()
        self.touched = set()

    def counts(self) -> dict[str, int]:
        """How many of each."""
        return {name: sum(getattr(self, name).values()) for name in ("launches", "waits", "uploads")}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return self.run(function, args, kwargs or {})

    def run(self, function, args, kwargs):
        """One operation: refuse, count, compute on the CPU, wrap."""
        name = function._schema.name.partition("::")[2]
        if torch.is_inference_mode_enabled() and function not in self.whole:
            with self:  # autograd's keys are off, which would have taken it apart
                parts = function.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
            self.whole.add(function)
        if name == "_has_compatible_shallow_copy_type":
            return isinstance(args[0], OnDevice) == isinstance(args[1], OnDevice)
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        device = _device(kwargs.get("device"))
        if not ours and (device is None or device.type != "cuda"):
            return function(*args, **kwargs)
        target = device or ours[0].device
        for leaf in leaves:
            if isinstance(leaf, torch.Generator) and leaf.device.type != target.type:
                raise RuntimeError(f"{name}: expected a {target.type!r} generator, not one of {leaf.device.type!r}")
        if name not in COPIES:
            self._refuse_mixed(name, args, tensors, ours)
        self._count(name, args, kwargs, target)
        host_args, host_kwargs = tree_map(
            lambda each: each.host if isinstance(each, OnDevice) else each, (args, kwargs)
        )
        if device is not None:
            host_kwargs = {key: value for key, value in host_kwargs.items() if key != "pin_memory"} | {"device": "cpu"}
        if name in ("_softmax", "_log_softmax") and host_args[2]:  # to float32 in one pass, which the CPU does in two
            host_args = (host_args[0].float(), host_args[1], False)
        result = function(*host_args, **host_kwargs)
        if target.type == "cpu":
            return result
        self.touched.update(tensor.device.index for tensor in ours)
        self.touched.add(target.index)
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
        if not view and name not in NO_KERNEL and torch.Tag.inplace_view not in function.tags:
            self.launches[(_place(), name)] += 1
        return self._wrapped(function, args, kwargs, result, target, view, ours)

    def _refuse_mixed(self, name, args, tensors, ours):
        devices = {tensor.device for tensor in ours}
        host = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.ndim > 0]
        if name in INDEXING:  # indices may be the host's; what is indexed and what is put there may not
            whole = [args[0], *(args[2:3] if len(args) > 2 and isinstance(args[2], torch.Tensor) else ())]
            host = [
                tensor for tensor in whole if not isinstance(tensor, OnDevice) and (tensor is args[0] or tensor.ndim)
            ]
            devices = {tensor.device for tensor in whole if isinstance(tensor, OnDevice)}
        if name.startswith(("_foreach", "_fused")):  # lists of scalars and steps
            host = []
        if ours and (host or len(devices) > 1):
            each = ", ".join(f"{list(tensor.shape)} {tensor.device}" for tensor in tensors)
            raise MixedDevices(
                f"{name} at {_place()}: Expected all tensors to be on the same device, but found at least two: {each}"
            )

    def _count(self, name, args, kwargs, target):
        if name in WAITS:
            self.waits[(_place(), name)] += 1
        elif name in INDEXING:
            indices = [index for index in args[1] if index is not None]
            value = args[2] if len(args) > 2 and isinstance(args[2], torch.Tensor) else None
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and (
                value is None or value.numel() != 1
            ):
                self.waits[(_place(), "mask")] += 1
            if any(not isinstance(index, OnDevice) for index in indices):
                self.uploads[(_place(), "index")] += 1
        elif name in ("_to_copy", "copy_"):
            to, source = (target, args[0]) if name == "_to_copy" else (args[0].device, args[1])
            late = kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False)
            if source.device.type == "cuda" and to.type == "cpu" and not late:
                self.waits[(_place(), "to cpu")] += 1
            elif source.device.type == "cpu" and to.type == "cuda" and (source.ndim or name == "_to_copy"):
                self.uploads[(_place(), "to cuda")] += 1
                self.bytes[(_place(), "to cuda")] += source.numel() * source.element_size()

    def _wrapped(self, function, args, kwargs, result, target, view, ours):
        schema = function._schema
        if schema.is_mutable:
            outputs = [
                kwargs.get(each.name, args[index] if index < len(args) else None)
                for index, each in enumerate(schema.arguments)
                if each.alias_info is not None and each.alias_info.is_write
            ]
            outputs = [each for each in outputs if each is not None]
            if not schema.returns:
                return None
            if all(r.alias_info is not None and r.alias_info.is_write for r in schema.returns):
                return outputs[0] if len(schema.returns) == 1 else tuple(outputs)
        # in inference mode, a view of a normal tensor is a normal one
        normal = view and torch.is_inference_mode_enabled() and any(not tensor.is_inference() for tensor in ours)
        with torch.inference_mode(False) if normal else contextlib.nullcontext():
            wrapped = tree_map(lambda leaf: OnDevice(leaf, target) if isinstance(leaf, torch.Tensor) else leaf, result)
        if view:
            with contextlib.suppress(AssertionError, RuntimeError):
                return return_and_correct_aliasing(function, tuple(args), dict(kwargs), wrapped)
        return wrapped


def _device(given) -> torch.device | None:
    """With the index of the current device, where none is given."""
    if given is None:
        return None
    device = torch.device(given)
    return torch.device("cuda", _exchange(-1)) if device.type == "cuda" and device.index is None else device


def _exchange(index: int) -> int:
    return library().pretend_exchange_device(index)


def _place() -> str:
    """dense_ctx/FILE.py:LINE of the innermost frame of the library, or of a plugin."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        for root in ("/plugins/dense_ctx", "/dense_ctx/"):
            if root in name and "site-packages" not in name:
                return f"{name[name.rindex(root) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside"


_attention = torch.nn.functional.scaled_dot_product_attention


def _attention_on_device(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """The plain formula; CUDA's choice of a kernel asks the driver."""
    if not isinstance(query, OnDevice):
        return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if torch.is_autocast_enabled("cuda"):
        half = torch.get_autocast_dtype("cuda")
        query, key, value = query.to(half), key.to(half), value.to(half)
        attn_mask = attn_mask.to(half) if attn_mask is not None and attn_mask.is_floating_point() else attn_mask
    plain = torch._scaled_dot_product_attention_math
    return plain(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)[0]


class _Properties:
    name, major, minor, total_memory, multi_processor_count = "Pretended GPU", 9, 0, 80 << 30, 132


def _patches(mode: Pretend):
    """(where, name, value) of what stands in for the driver."""

    def index_of(device) -> int:
        return (
            _exchange(-1)
            if device is None or device == -1
            else _device(device if not isinstance(device, int) else f"cuda:{device}").index
        )

    def touch(device=None, result=None):
        mode.touched.add(index_of(device))
        return result

    def set_device(device):
        mode.touched.add(index_of(device))
        _exchange(index_of(device))

    cuda = torch.cuda
    return [
        *((cuda, name, value) for name, value in {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: DEVICES,
            "current_device": lambda: _exchange(-1),
            "set_device": set_device,
            "_exchange_device": _exchange,
            "_maybe_exchange_device": _exchange,
            "synchronize": lambda device=None: touch(device),
            "is_bf16_supported": lambda *args, **kwargs: True,
            "get_device_name": lambda device=None: "Pretended GPU",
            "get_device_capability": lambda device=None: (9, 0),
            "get_device_properties": lambda device=None: _Properties(),
            "max_memory_allocated": lambda device=None: touch(device, 0),
            "memory_allocated": lambda device=None: touch(device, 0),
            "memory_reserved": lambda device=None: touch(device, 0),
            "reset_peak_memory_stats": lambda device=None: touch(device),
            "mem_get_info": lambda device=None: (80 << 30, 80 << 30),
            "empty_cache": lambda: None,
            "get_rng_state": lambda device=None: torch.get_rng_state(),
            "manual_seed": lambda seed: None,
            "manual_seed_all": lambda seed: None,
        }.items()),
        (cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (torch.Tensor, "pin_memory", lambda tensor, device=None: tensor),
        (torch.nn.functional, "scaled_dot_product_attention", _attention_on_device),
    ]  # fmt: skip


@contextlib.contextmanager
def pretend():
    """Within the context there are two CUDA devices, and PyTorch runs in this thread alone."""
    library()
    mode = Pretend()
    lifted, swapped = torch._C._only_lift_cpu_tensors(), torch.__future__.get_swap_module_params_on_conversion()
    with contextlib.ExitStack() as stack:
        for where, name, value in _patches(mode):
            stack.enter_context(mock.patch.object(where, name, value))
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is a copy from the CPU
        torch.__future__.set_swap_module_params_on_conversion(True)
        _MODES.append(mode)
        _exchange(0)
        try:
            with mode, torch.autograd.set_multithreading_enabled(False):
                yield mode
        finally:
            _MODES.pop()
            _exchange(0)
            torch._C._set_only_lift_cpu_tensors(lifted)
            torch.__future__.set_swap_module_params_on_conversion(swapped)
