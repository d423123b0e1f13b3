"""The plugin hooks.

A plugin is a module named by an entry point of group `dense_ctx`. It implements hooks below with `@hookimpl`: those
that register parts, and those that are called while a model trains. Targets are imported at first use, so a plugin's
`__init__` should import nothing but `hookimpl`.

    register(kind, name, target, *, args=None, extra=None)

kind    one of the table's, or one that another plugin defines; `dense-ctx plugins` lists all.
name    what users type. A name that ends in ":" is a family: "timm:" answers to "timm:NAME", and NAME becomes
        the target's first argument.
target  "package.module:attribute", the class or a function that builds it; for a kind of files "package:path".
args    keyword arguments always passed to the target, below the user's own.
extra   the optional extra ("dip": pip install yours[dip]) of packages the target imports; without them it alone fails.

    kind        what a part does                            its base class, with the contract
    backbone    images to feature maps                      dense_ctx.interfaces:Backbone
    decoder     feature maps to a vector for every pixel    dense_ctx.interfaces:Decoder
    objective   what to learn from what                     dense_ctx.interfaces:Objective (ScoredObjective: bench)
    probe       features and labels to predictions          dense_ctx.interfaces:Probe
    metric      predictions and targets to scores           dense_ctx.interfaces:Metric
    dataset     a folder to annotated images or clips       dense_ctx.data.base:DatasetReader
    command     a verb of `dense-ctx`                       dense_ctx.commands.base:Command
    model       a published model                           "hub:owner/repo[@revision]", or a folder "package:path";
                                                            args={"unpublished": how to make it}: not there yet
    protocol    a benchmark                                 a file "package:path.yaml"
    preset      a configuration of `dense-ctx train`        a file "package:path.yaml"; its first line says what it is
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    from .model import DenseModel
    from .train import TrainConfig

GROUP = "dense_ctx"
HUB_OWNER = "dense-ctx"  # of the Hub repositories that this distribution's short names of models stand for
API_VERSION = 1  # a plugin may set DENSE_CTX_API = n; a higher n than this is refused, with the reason

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Register(Protocol):
    """The callback of `register_parts`."""

    def __call__(  # noqa: D102  described at the top of this file
        self, kind: str, name: str, target: str, *, args: Mapping[str, Any] | None = None, extra: str | None = None
    ) -> None: ...


class DefineKind(Protocol):
    """The callback of `define_kinds`."""

    def __call__(self, kind: str, base: str | None = None, *, suffix: str | None = None) -> None:
        """Add a kind of parts.

        Args:
            kind: its name, in the singular.
            base: "package.module:Class" that every part is an instance of; imported at first use.
            suffix: parts are files of a package, "package:path", that end so (".json"); there is no base then.
        """


class HookSpecs:
    """The hooks; an implementation names those arguments that it uses, and returns nothing.

    Those of a training are called in its first process. One that raises is named in a PluginWarning, with its plugin,
    whose hooks are not called again in that run; the run goes on. A `DenseCtxError` from `training_start` refuses the
    run. `config`: with `steps`, and with the optimizer's values, as they hold; `config.out` is the run's folder.
    """

    @hookspec
    def define_kinds(self, define: DefineKind) -> None:
        """Add kinds of parts: define("cue", "dense_ctx_lila.cues.base:Cue"). All kinds come before any part."""

    @hookspec
    def register_parts(self, register: Register) -> None:
        """Name parts: register("backbone", "dinov2-s14", "pkg.vit:Vit", args={...})."""

    @hookspec
    def training_start(self, config: TrainConfig, model: DenseModel, step: int) -> None:
        """A run begins, after `step` steps of an earlier call. `model` is that which trains, on its device."""

    @hookspec
    def training_step(self, config: TrainConfig, step: int, values: Mapping[str, float]) -> None:
        """Step `step`, from 1, is done. values: loss, those of the objective, lr, grad_norm, seconds; maybe NaN."""

    @hookspec
    def training_evaluation(
        self, config: TrainConfig, model: DenseModel, step: int, scores: Mapping[str, float]
    ) -> None:
        """The model was validated (`config.validate`), by the names of its scores."""

    @hookspec
    def training_checkpoint(self, config: TrainConfig, step: int, folder: Path) -> None:
        """A state to resume from was saved in `folder`."""

    @hookspec
    def training_end(self, config: TrainConfig, step: int, folder: Path | None, error: BaseException | None) -> None:
        """A run that began is over: its model is in `folder`, or `error` has ended it after `step` steps."""
