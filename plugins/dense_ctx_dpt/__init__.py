"""Plugin: decoders `dpt` (dense prediction transformer, Ranftl et al. 2021) and `upsample`; FlowFeat's converter."""

from dense_ctx.hookspecs import HUB_OWNER, Register, hookimpl

# the files that hubconf.py of github.com/tum-vision/flowfeat names
_FILES = "https://cvg.cit.tum.de/webshare/g/papers/flowfeat/{file}"
_FLOWFEAT = {
    "dino-s16-yt": "dino_s16_flowfeat_yt.pth",
    "dino-b16-yt": "dino_b16_flowfeat_yt.pth",
    "dino-b16-kt": "dino_b16_flowfeat_kt.pth",
    "mae-b16-kt": "mae_b16_flowfeat_kt.pth",
    "dinov2-s14-yt": "dino2_s14_flowfeat_yt.pth",
    "dinov2-b14-yt": "dino2_b14_flowfeat_yt.pth",
    "dinov2-b14-kt": "dino2_b14_flowfeat_kt.pth",
}
_HOW = (
    "The authors' file is {address}; no sha256 of it is confirmed, so it is not fetched by this name. Download it, "
    "then `dense-ctx convert flowfeat {file} --out {name}`, and open that folder"
)


@hookimpl
def register_parts(register: Register) -> None:
    """Register the parts."""
    register("decoder", "dpt", "dense_ctx_dpt.dpt:DPT")
    register("decoder", "upsample", "dense_ctx_dpt.upsample:Upsample")
    register("converter", "flowfeat", "dense_ctx_dpt.convert:from_flowfeat")
    for variant, file in _FLOWFEAT.items():
        name = f"flowfeat-{variant}"
        how = _HOW.format(address=_FILES.format(file=file), file=file, name=name)
        register("model", name, f"hub:{HUB_OWNER}/{name}", args={"unpublished": how})
