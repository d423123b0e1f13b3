"""Whether a line of `dense-ctx` in the documentation is right: its verb's parser takes it, and every name in it exists.

Nothing is opened, fetched or run. A name is checked with its arguments (`dinov2-s14(layers=[3])`), a setting against
the protocol, preset or data set that it changes.
"""

import re
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from dense_ctx import cli, registry
from dense_ctx.config import Part, Parts, parse_part
from dense_ctx.data import layout
from dense_ctx.evaluate.protocol import load_protocol
from dense_ctx.model_spec import parse_model
from dense_ctx.train import TrainConfig

FILE = re.compile(
    r"[\w.-]*/|.*\.\w+$|[A-Z_]+$"
)  # a place of the reader's own: with a slash, a suffix, or a placeholder
SMALL = "out: out\nsteps: 2\nmodel: efficientnet-lite0+upsample\nobjective: lila\ndata: data\n"


def check_verb(words):
    """A verb's line: its own parser, then the names of parts and files that it ships."""
    assert "..." not in words, "a line that is not whole"
    errors = StringIO()
    try:
        with redirect_stderr(errors):
            args = cli.build_parser().parse_args(words)
    except SystemExit as end:
        raise AssertionError(errors.getvalue() or f"status {end.code}") from None
    verb = words[0]
    settings = list(getattr(args, "settings", []))
    assert all("=" in setting for setting in settings), settings
    models = getattr(args, "model", None)
    for spec in [*([models] if isinstance(models, str) else models or []), *(getattr(args, "models", None) or [])]:
        check_model(spec)
    checker = {
        "evaluate": check_evaluate, "train": check_train, "bench": check_bench, "datasets": check_datasets,
        "pseudo-label": check_tasks, "compare": check_compare,
    }.get(verb)  # fmt: skip
    if checker is not None:
        checker(args, settings)
    kinds = {"method": "probe", "segmenter": "segmenter", "format": "label-format", "labels_from": "label-format",
             "labels_to": "label-format", "cues": "cue"}  # fmt: skip
    for name, kind in kinds.items():
        kind = {("export", "format"): "exporter", ("convert", "format"): "converter"}.get((verb, name), kind)
        for text in _list(getattr(args, name, None)):
            if name in args.spelling and text not in ("auto", "png", "npy", "tif", "exr", "jpg"):
                bind(kind, parse_part(text))
    if verb == "plugins" and getattr(args, "kind", None):
        assert args.kind in registry().kinds, args.kind


def _list(value):
    return [] if value is None else value if isinstance(value, list) else [value]


def bind(kind, part, **own):
    """The part exists and takes these arguments."""
    if kind == "backbone" and part.name.startswith("timm:"):
        import timm

        assert timm.is_model(part.name.removeprefix("timm:")), part.name
    if kind == "converter":
        registry().get(kind, part.name)
    else:
        registry().bind(kind, part.name, **own, **part.args)


def check_model(spec):
    parts = parse_model(spec)
    if isinstance(parts, Parts):
        bind("backbone", parts.backbone)
        bind("decoder", parts.decoder, dims=(8,), strides=(8,))
    else:
        assert parts.name in registry().names("model") or FILE.match(parts.name), f"there is no model {parts.name}"


def check_evaluate(args, settings):
    for name in args.protocol or []:
        protocol = load_protocol(name, settings)
        bind("probe", protocol.probe)
        layout(protocol.data.name)
    assert args.list or args.protocol, "no protocol"


def check_train(args, settings):
    if args.config is None or args.list:
        assert args.list
        return args.config is None or registry().text("preset", args.config)
    name = args.config
    with tempfile.TemporaryDirectory() as folder:
        if name not in registry().names("preset"):
            assert name.endswith(".yaml"), f"there is no preset {name}"
            name = Path(folder) / "run.yaml"
            name.write_text(SMALL)
        config = TrainConfig.load(name, settings)
    check_config(config)


def check_config(config):
    """What a training configuration names exists, with these arguments."""
    if isinstance(config.model, Parts):
        bind("backbone", config.model.backbone)
        bind("decoder", config.model.decoder, dims=(8,), strides=(8,))
    else:
        check_model(str(config.model))
    bind("objective", config.objective)
    if config.validate.protocol is not None:
        load_protocol(config.validate.protocol, config.validate.set)


def check_bench(args, settings):
    from dense_ctx_bench.command import _roots, _task
    from dense_ctx_bench.presets import bench_of

    if args.preset is not None:
        bench = bench_of(args.preset, _roots(args.data), args.out, args.backbones, args.tasks, args.seeds)
        backbones, heads, tasks = bench.backbones, bench.heads, bench.tasks
    else:
        backbones, heads = map(parse_part, args.backbones), map(parse_part, args.heads)
        tasks = [_task(text) for text in args.tasks]
    for part in backbones:
        bind("backbone", part)
    for part in heads:
        bind(
            "decoder", Part(part.name, {key: v for key, v in part.args.items() if key != "lr"}), dims=(8,), strides=(8,)
        )
    for task in tasks:
        bind("objective", Part(task.objective, task.args))
        layout(task.data["name"])


def check_datasets(args, settings):
    if args.name is None:
        return
    options = {name for name, _ in layout(args.name).options}
    assert {setting.partition("=")[0] for setting in settings} <= options, (settings, options)


def check_tasks(args, settings):
    from dense_ctx_dip.task_preset import task_preset
    from dense_ctx_dip.task_settings import TaskSettings

    from dense_ctx.config import override, typed

    if args.config is not None:
        task_preset(args.config, settings)
    else:
        typed(TaskSettings, override({}, *settings), "pseudo-label")


def check_compare(args, settings):
    from dense_ctx_benchmarks import papers

    if args.paper is not None:
        papers.table(args.paper)
