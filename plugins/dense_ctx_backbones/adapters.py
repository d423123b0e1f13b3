"""Adapters of peft on a backbone's network: from a folder that peft wrote, or put on by the user's own code.

    dinov2-s14(adapters=FOLDER)                                  adapter_config.json, adapter_model.safetensors
    peft.get_peft_model(model.backbone.net, LoraConfig(...))     before model.save_pretrained(folder)

A saved model has the adapters' tensors in its checkpoint and, in its config.json, which layers have which (`KEYS`).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from dense_ctx.errors import CheckpointError, ConfigError, FileError, InputError, WeightsError
from dense_ctx.interfaces import Backbone, Features
from dense_ctx.model import DenseModel
from dense_ctx.persistence.artefact import read_object
from dense_ctx.persistence.tensors import read_state, require_state, specs

from .weight_type import cast_through, in_own_type, refuse_adapters, require_own_type

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names
METHODS = ("LORA", "IA3")  # DoRA is LORA with use_dora
# of peft's configuration, what decides what the layers compute
KEYS = (
    "peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "feedforward_modules", "modules_to_save", "bias",
    "use_dora", "use_rslora", "lora_bias", "fan_in_fan_out", "rank_pattern", "alpha_pattern",
)  # fmt: skip
# what matters before the adapters are on their layers, or to peft's own loading
FREE = (
    "task_type", "inference_mode", "base_model_name_or_path", "auto_mapping", "revision", "peft_version",
    "init_lora_weights", "init_ia3_weights", "exclude_modules", "layers_to_transform", "layers_pattern", "eva_config",
    "runtime_config", "ensure_weight_tying", "megatron_core",
)  # fmt: skip


class AdaptedBackbone(Backbone):
    """A backbone whose network, `net`, may carry peft's adapters, or hold its frozen weights in `dtype`.

    Weights whose type an argument says stay in it, however the model around them is cast.
    """

    net: Any

    def _apply(self, fn: Any, recurse: bool = True) -> Self:  # what `to`, `float`, `cuda` ... call for each tensor
        run: Any = super()._apply
        run(fn if self.weights_dtype is None else in_own_type(fn), recurse)
        return self

    def __call__(self, images: Tensor) -> Features:
        """`forward`, in the type of the weights where the argument `dtype` says it."""
        encode = super().__call__
        return encode(images) if self.weights_dtype is None else cast_through(self, encode, images)

    def adapters(self) -> list[str]:
        """Names of the parameters of peft's adapters, and of the modules that peft trains with them."""
        return parameter_names(self)

    def stored_args(self, args: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
        """The arguments, and the adapters that are on the network now.

        Raises:
            CheckpointError: of a kind that cannot be built again (`described`); or the weights are not in `dtype`.
            ConfigError: adapters were put on weights in bfloat16.
        """
        self.net = bare(self.net)
        arguments = {key: value for key, value in args.items() if key != "adapters"}
        now = described(self.net)
        refuse_adapters(self.weights_dtype, now)
        require_own_type(self.net, self.weights_dtype)
        return arguments if now is None else {**arguments, "adapters": now}


def bare(net: nn.Module) -> nn.Module:
    """The network in a PeftModel, whose layers have the adapters; another network as it is."""
    from peft import PeftModel

    return net.get_base_model() if isinstance(net, PeftModel) else net


def parameter_names(module: nn.Module) -> list[str]:
    """Names of all parameters of peft's adapters in a module."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    names = []
    part: Any
    for at, part in module.named_modules():
        tuner, saved = isinstance(part, BaseTunerLayer), isinstance(part, ModulesToSaveWrapper)
        first = part.adapter_layer_names if tuner else ("modules_to_save",) if saved else ()
        own = [name for name, _ in part.named_parameters() if name.split(".")[0] in first]
        names += [f"{at}.{name}" if at else name for name in own]
    return names


def merge_layers(module: nn.Module) -> list[str]:
    """Put the layers whose weights include their adapters in the place of the adapted ones; returns their names."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    names = []
    for name, layer in list(module.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            parent, _, last = name.rpartition(".")
            module.get_submodule(parent).register_module(last, layer.get_base_layer())
            names.append(name)
    return names


def merge_adapters(model: DenseModel) -> list[str]:
    """Merge the adapters of a model's backbone into its weights, in place; the layers' names.

    A model that is saved then has these layers' weights in its checkpoint, and no adapters.

    Raises:
        InputError: it has no adapters, or peft trains whole modules beside them.
    """
    backbone, before = model.backbone, parameter_names(model.backbone)
    if not isinstance(backbone, AdaptedBackbone) or not before:
        raise InputError(f"{type(backbone).__name__} has no adapters of peft on its network: nothing to merge")
    if whole := [name for name in before if "modules_to_save." in name]:
        raise InputError(f"{whole[0]} is of a whole module that peft trains, which cannot be merged; save it as it is")
    backbone.net = bare(backbone.net)
    layers = [f"net.{name}" for name in merge_layers(backbone.net)]
    del backbone.net.peft_config
    if model.model_config is not None:
        tensors = set(model.model_config.backbone_tensors) - set(before)
        own = [key for key in backbone.state_dict() if key in tensors or key.rpartition(".")[0] in layers]
        model.model_config = replace(model.model_config, backbone_tensors=tuple(own))
    return layers


def attach(net: nn.Module, adapters: str | os.PathLike[str] | Mapping[str, Any] | None, network: str = "") -> None:
    """Put adapters on a network: those of a folder with their weights, or fresh ones by what `described` gave.

    Args:
        network: its name; a folder whose adapters are of another one, as far as it says, is warned of.

    Raises:
        FileError: no such folder, or a file is missing. ConfigError: its configuration is not one of `METHODS`, or
            asks for what is not in `KEYS`; or it names no layer of the network.
        WeightsError: tensors are missing, left over or of another shape; they are named.
    """
    if adapters is None:
        return
    if isinstance(adapters, Mapping):
        folder, values, where = None, dict(adapters), "adapters"
    else:
        folder = Path(adapters)
        for file in (CONFIG, WEIGHTS):
            if not (folder / file).is_file():
                raise FileError(f"{folder} holds no adapters of peft: it has no {file} (pickles are not read)")
        values, where = read_object(folder / CONFIG), str(folder / CONFIG)
        base = values.get("base_model_name_or_path")
        if network and isinstance(base, str) and base and Path(base).name != Path(network).name:
            what = (
                f"{where}: adapters of {base[:200]}, put on {network}: their shapes may fit where their weights do not"
            )
            warnings.warn(what, stacklevel=2)
    name = str(values.pop("name", "default"))
    if not re.fullmatch(r"\w{1,100}", name):
        raise ConfigError(f"{where}: name is {name!r:.100}; expected letters, digits and _")
    config = _config(values, where)
    from peft import inject_adapter_in_model

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            inject_adapter_in_model(config, net, adapter_name=name)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ConfigError(f"{where} does not fit {type(net).__name__}: {' '.join(str(error).split())[:400]}") from None
    if folder is not None:
        _load(net, folder, name)


def _load(net: nn.Module, folder: Path, name: str) -> None:
    from peft import get_peft_model_state_dict

    own = get_peft_model_state_dict(net, adapter_name=name)
    state = {key.removeprefix("base_model.model."): value for key, value in read_state(folder / WEIGHTS).items()}
    try:
        require_state(state, specs(own), f"{folder / WEIGHTS} does not fit {type(net).__name__}", cast=True)
    except CheckpointError as error:
        raise WeightsError(str(error)) from None
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(state[key])


def _config(values: Mapping[str, Any], where: str) -> Any:
    """peft's configuration of what `KEYS` name; raises ConfigError for what else would have an effect."""
    import peft

    method = str(values.get("peft_type")).rpartition(".")[2]  # of peft's enumeration too
    if method not in METHODS:
        raise ConfigError(f"{where}: peft_type is {method!r:.60}; expected one of {', '.join(METHODS)}")
    kind = peft.LoraConfig if method == "LORA" else peft.IA3Config
    fresh = kind().to_dict()
    odd = [key for key, value in values.items() if key not in (*KEYS, *FREE) and value and value != fresh.get(key)]
    start = values.get("init_lora_weights", True)
    if isinstance(start, str) and start not in ("gaussian", "orthogonal", "eva"):  # the others change the weights below
        odd.append(f"init_lora_weights={start}")
    if odd:
        raise ConfigError(
            f"{where}: {', '.join(odd)[:200]}: adapters of that kind cannot be built again; merge them first"
        )
    settings = {key: value for key, value in values.items() if key in KEYS and key != "peft_type" and key in fresh}
    for key, low in (("r", 1), ("lora_alpha", 0)):
        if key in settings and (
            isinstance(settings[key], bool) or not isinstance(settings[key], (int, float)) or settings[key] < low
        ):
            raise ConfigError(f"{where}: {key} is {settings[key]!r:.60}; expected a number from {low} on")
    if settings.get("r", 1) > 4096:
        raise ConfigError(f"{where}: r is {settings['r']!r:.60}; expected at most 4096")
    return kind(**settings)


def described(net: nn.Module) -> dict[str, Any] | None:
    """The adapters on a network as JSON values, with which `attach` puts the same on another; None without any.

    Raises:
        CheckpointError: of several names, merged or switched off, or of a kind that `attach` refuses.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    layers: dict[str, Any] = {n: part for n, part in net.named_modules() if isinstance(part, BaseTunerLayer)}
    configs = dict(getattr(net, "peft_config", {}))
    if not layers or not configs:  # layers without: of `lora:NAME`, which stores them
        return None
    if len(configs) != 1:
        raise CheckpointError(
            f"The network has adapters {', '.join(configs)}; one can be saved: delete or merge others"
        )
    ((name, config),) = configs.items()
    if any(layer.merged or layer.disable_adapters or layer.active_adapters != [name] for layer in layers.values()):
        raise CheckpointError(
            f"The adapters {name!r} are merged, switched off or inactive, and would be saved as active: "
            "undo that, or merge them for good, dense_ctx_backbones.adapters.merge_adapters(model)"
        )
    values = config.to_dict()
    values["peft_type"] = str(values["peft_type"]).rpartition(".")[2]
    try:
        _config(values, "The network's adapters")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    fresh = type(config)().to_dict()
    result = {
        key: value for key, value in values.items() if key in KEYS and value != fresh.get(key) and value is not None
    }
    result |= {"peft_type": str(values["peft_type"]), "target_modules": sorted(layers)}
    saved = sorted(at for at, part in net.named_modules() if isinstance(part, ModulesToSaveWrapper))
    if values["peft_type"] == "IA3":
        result["feedforward_modules"] = sorted(at for at, layer in layers.items() if layer.is_feedforward)
    return result | ({"modules_to_save": saved} if saved else {}) | ({} if name == "default" else {"name": name})
