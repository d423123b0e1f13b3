"""Plugin: read and write label maps in the formats of annotation tools; command `labels`."""

from dense_ctx.hookspecs import DefineKind, Register, hookimpl


@hookimpl
def define_kinds(define: DefineKind) -> None:
    """Label formats: files of annotation tools to label maps, and back."""
    define("label-format", "dense_ctx_labels.base:LabelFormat")


@hookimpl
def register_parts(register: Register) -> None:
    """Register the formats, and the command that converts between them."""
    register("label-format", "auto", "dense_ctx_labels.auto:Auto")
    register("label-format", "png", "dense_ctx_labels.png:PalettePng")
    register("label-format", "png-grey", "dense_ctx_labels.png:GreyPng")
    register("label-format", "coco", "dense_ctx_labels.coco:Coco")
    register("label-format", "cvat", "dense_ctx_labels.cvat:Cvat")
    register("label-format", "label-studio", "dense_ctx_labels.label_studio:LabelStudio")
    register("label-format", "yolo", "dense_ctx_labels.yolo:Yolo")
    register("label-format", "labelme", "dense_ctx_labels.labelme:Labelme")
    register("label-format", "geotiff", "dense_ctx_labels.geotiff:GeoTiff", extra="geo")
    register("label-format", "ome-zarr", "dense_ctx_labels.zarr_labels:OmeZarr", extra="zarr")
    register("label-format", "overlay-mp4", "dense_ctx_labels.overlays:Mp4")
    register("label-format", "overlay-gif", "dense_ctx_labels.overlays:Gif")
    register("command", "labels", "dense_ctx_labels.command:Labels")
