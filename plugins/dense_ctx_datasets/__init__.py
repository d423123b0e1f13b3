"""Plugin: readers of data sets in their official folder layouts, and command `datasets`."""

from dense_ctx.hookspecs import Register, hookimpl

_READERS = {
    "ade20k": {"ade20k": "Ade20k"},
    "clips": {"clips": "Clips", "kinetics700": "Kinetics700", "vos-folder": "VosFolder", "youtube-vos": "YoutubeVos"},
    "coco": {"coco-instances": "CocoInstances", "coco-stuff171": "CocoStuff171", "coco-stuff27": "CocoStuff27"},
    "davis": {"davis2016": "Davis2016", "davis2017": "Davis2017"},
    "driving": {
        "acdc": "Acdc",
        "camvid": "CamVid",
        "cityscapes": "Cityscapes",
        "cityscapes-acdc": "CityscapesAcdc",
    },
    "folders": {"image-folder": "ImageFolder"},
    "nyuv2": {"nyuv2": "Nyuv2"},
    "rgbd": {"rgbd-folder": "RgbdFolder"},
    "voc": {"pascal-context": "PascalContext", "voc2012": "Voc2012"},
}

_BY_PACKAGES = ("coco-instances", "nyuv2")  # pycocotools, h5py


@hookimpl
def register_parts(register: Register) -> None:
    """Register the data sets, and the command that lists and checks them."""
    for module, readers in _READERS.items():
        for name, reader in readers.items():
            extra = "datasets" if name in _BY_PACKAGES else None
            register("dataset", name, f"dense_ctx_datasets.{module}:{reader}", extra=extra)
    register("command", "datasets", "dense_ctx_datasets.command:Datasets")
