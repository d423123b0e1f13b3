"""Plugin: published upsamplers of features as decoders, `anyup`, `jafar`, `naf` ..., and converters of their files."""

from dense_ctx.hookspecs import Register, hookimpl

_CLASSES = ("AnyUp", "FeatUp", "Jafar", "LoftUp", "Naf", "Uplift")


@hookimpl
def register_parts(register: Register) -> None:
    """Register the parts."""
    for target in _CLASSES:
        name = target.lower()
        register("decoder", name, f"{__name__}.{name}:{target}")
        register("converter", name, f"{__name__}.convert:from_{name}")
