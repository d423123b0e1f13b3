"""Every argument of the parts of other kinds and of the measures, and every setting of a protocol."""

import transformers
from effect_lines import Changes, Refused, Same, beside
from test_cues import TINY_DEPTH

VIT = {"weights": None, "embed_dim": 16, "depth": 4, "num_heads": 2, "img_size": 32}
HIERA = {"weights": None, "embed_dim": 16, "num_heads": 1, "stages": (1, 1, 2, 1)}
SAM2 = {
    "backbone_channel_list": [64, 32, 16, 8],
    "backbone_config": {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1,
        "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8], "window_size_per_stage": [8, 4, 4, 4],
        "global_attention_blocks": [3], "window_positional_embedding_background_size": [7, 7],
    },
}  # fmt: skip


def dinov2(width=16):
    return transformers.Dinov2Config(
        hidden_size=width, num_hidden_layers=4, num_attention_heads=2, image_size=42, patch_size=14
    )


READ = Same("where the weights come from, files of which there are none here: test_backbone_weights")
OF_WHICH = Same("the network itself, in tiny here: test_timm_families, test_backbones_rules")
PREFIX = Same("of the names in a file: test_backbone_prefixes")
ADAPTERS = Same("a folder that peft wrote: test_peft_adapters")
LORA = {"weights": None, "args": {key: value for key, value in VIT.items() if key != "weights"}}
# what the part is built with here, in place of nothing: networks of their real size take seconds each
BASES = {
    "backbone clip-b16": VIT, "backbone hiera-tiny": HIERA, "backbone efficientnet-lite0": {"weights": None},
    "backbone hf:": {"weights": None, "config": dinov2()}, "backbone lora:": LORA,
    "backbone mocov3-b16": {"weights": None}, "backbone sam2-base-plus-neck": {"weights": None, "config": SAM2},
}  # fmt: skip
TIMM = {"model": OF_WHICH, "weights": READ, "layers": (0, 1), "norm": False, "prefix": PREFIX, "adapters": ADAPTERS,
        "dtype": "bfloat16"}  # fmt: skip
BACKBONES = {
    "clip-b16": {**TIMM, "resize": True, "options": {"embed_dim": 24}},
    "hiera-tiny": {**TIMM, "norm": Same("Hiera's maps have no norm of their own: test_timm_families"),
                   "resize": True, "options": {"embed_dim": 32}},
    "efficientnet-lite0": {"model": OF_WHICH, "weights": READ, "layers": (0, 1), "adapters": ADAPTERS},
    "hf:": {"repo": OF_WHICH, "weights": READ, "layers": (0, 1), "norm": False, "config": dinov2(24),
            "revision": Same("of a repository on the Hub: test_hub_stand_ins"), "prefix": PREFIX,
            "adapters": ADAPTERS, "dtype": "bfloat16"},
    "lora:": {"of": OF_WHICH, "args": {**LORA["args"], "embed_dim": 24}, "rank": 4, "targets": ["proj"],
              "weights": READ},
    "mocov3-b16": {"weights": READ, "layers": (0, 1), "norm": False},
    "model:": {
        "name": Same("which model: test_saved_model"), "maps": "both", "stride": 8,
        "revision": Same("of a repository on the Hub: test_saved_model_links"),
        "digest": Same("what is stored of the model, and compared: test_saved_model_links"),
        "config": Same("of a model without its folder: test_saved_model"),
        "weights": Same("None: random, as contract checks want it: test_saved_model"),
    },
    "rgb-xy": {"position": 0.5},
    "sam2-base-plus-neck": {"repo": OF_WHICH, "weights": READ, "config": {**SAM2, "fpn_hidden_size": 64}},
}  # fmt: skip
NO_CLASSES = Same("every metric is told the data set's classes, and only one over classes has any: test_metrics")
OVER_CLASSES = {
    "classes": tuple("abcd"), "matching": "hungarian", "absent": beside("zero", classes=tuple("abcd")),
}  # fmt: skip
METRICS = {
    "depth": {"classes": NO_CLASSES, "low": 2.0, "high": 5.0, "align": "median"},
    "normals": {"classes": NO_CLASSES},
    "segmentation": {**OVER_CLASSES, "clusters": beside(6, matching="many_to_one")},
    "video": {"classes": NO_CLASSES},
    "zero-shot": {**OVER_CLASSES, "unseen": ("red",)},
}
MAPS = Same("where the weights come from, with files and a cache: test_cues")
DEPTH = {"weights": None, "config": TINY_DEPTH, "side": 42}
RAFT = {"weights": None, "iterations": 1}
CUES = {
    "depth:depth-anything-v2-small": {
        "size": Same("shapes of the published networks: test_depth_sizes_and_published_architectures"),
        "weights": MAPS, "side": Changes(56, DEPTH),
        "config": Changes({**TINY_DEPTH, "fusion_hidden_size": 4}, DEPTH),
    },
    "flow:dis": {"preset": "ultrafast", "finest": 0},
    "flow:raft-small": {"size": Changes("large", RAFT), "weights": MAPS, "iterations": Changes(2, RAFT)},
    "flow:sea-raft-s": {
        "size": Same("ptlflow's, an optional package: test_sea_raft_through_ptlflows_interface"), "weights": MAPS,
    },
}  # fmt: skip
NETWORKS = Same("networks of one's own, which every test of it gives: test_dip_segmenters")
SEGMENTERS = {
    "diffcut": {
        "model": Same("the published pipeline, in place of which tests give networks: test_dip_segmenters"),
        "timestep": 500, "side": 192, "seed": 1, "tau": beside(1.2, alpha=10.0), "alpha": 40.0,
        "official_quirk": beside(True, tau=1.2, alpha=40.0), "unet": NETWORKS, "vae": NETWORKS, "prompt": NETWORKS,
    },
    "ncut": {"tau": 0.8, "alpha": 4.0, "official_quirk": True},
    "slic": {"segments": 12, "compactness": 0.1},
}  # fmt: skip
TASKS = {"instances": {"least": 3, "large": 0.1, "seed": 100}, "semantic": {"outputs": 5}}
READERS = {key: Same(f"of files: {test}") for key, test in {
    "unlabelled": "test_labels_files", "stroke_width": "test_strokes_leave_the_rest_unannotated",
    "order": "test_where_shapes_overlap_the_order_is_said", "shape": "test_round_trip",
    "crowd": "test_coco_as_pycocotools_encodes_it", "choice": "test_label_studio_annotations_of_several_people",
    "url": "test_label_studio_urls_and_predictions", "target": "test_label_studio_urls_and_predictions",
    "images": "test_the_files_say_where_the_images_are", "bands": "test_bands_and_values_of_images",
    "span": "test_bands_and_values_of_images", "name": "test_ome_zarr_adds_labels_to_an_image_in_its_version",
    "like": "test_geotiff_takes_the_georeference_and_opens_elsewhere",
    "fps": "test_overlays_are_clips_of_the_images_with_their_labels",
    "alpha": "test_overlays_are_clips_of_the_images_with_their_labels",
    "binary": "test_a_black_and_white_mask_is_binary_and_said_so",
    "options": "handed to the format that is read: test_labels_command",
}.items()}  # fmt: skip
FORMATS = {name: {key: READERS[key] for key in keys.split()} for name, keys in {
    "auto": "options", "coco": "unlabelled stroke_width order shape crowd",
    "cvat": "unlabelled stroke_width order shape", "geotiff": "like bands span",
    "label-studio": "unlabelled stroke_width order shape choice url target",
    "labelme": "unlabelled stroke_width order shape images", "ome-zarr": "name bands span", "overlay-gif": "fps alpha",
    "overlay-mp4": "fps alpha", "png": "binary", "png-grey": "binary", "yolo": "unlabelled stroke_width order",
}.items()}  # fmt: skip
CONVERTERS = {name: {"path": Same(f"the checkpoint: {test}"), "backbone": Same(f"for a checkpoint's: {test}")}
              for name, test in (("dip", "test_dip_convert"), ("flowfeat", "test_official"))}  # fmt: skip
UPSAMPLERS = {"path": Same("the file: test_upsamplers"), "backbone": Same("whose maps it raises: test_upsamplers"),
              "layer": Same("of the decoder, where it counts: test_a_file_s_layer_is_the_decoder_s")}  # fmt: skip
CONVERTERS |= dict.fromkeys(("anyup", "featup", "jafar", "loftup", "naf", "uplift"), UPSAMPLERS)
GIVEN = Same("what is measured: test_measures, test_measures_temporal, test_measures_boundary")
MEASURES = {
    "temporal_consistency": {
        "model": GIVEN, "frames": GIVEN, "scales": (0.5,), "gaps": (1,), "threshold": 0.01, "points": 20,
        "seed": beside(1, points=20), "flow": Changes("STILL", {"gaps": (1,)}),
        "backward": Changes("STILL", {"flow": "STILL", "gaps": (1,)}),
    },
    "boundary_quality": {
        "model": GIVEN, "samples": GIVEN, "tolerance": 0.0, "ignore_index": 1, "thresholds": (0.2, 0.9),
    },
    "feature_invariance": {
        "model": GIVEN, "images": GIVEN, "transforms": "CROP", "points": 20, "seed": beside(1, points=20),
    },
}  # fmt: skip
STEPS = {"probe": "conv", "train": {"steps": 4, "batch": 2}}
CROPS = {"probe": "conv", "train": {"steps": 4, "batch": 2, "crop": [16, 16]}}
PASSES = {"support": {"passes": 2}, "image": {"size": [24, 36]}}
WALK = {"of": "rgbd-depth-linear-grid4-v1", "probe": "ridge", "train": None, "image": {"short_side": None}}
TEXT = Same("a text, which decides nothing: test_protocols")
PROTOCOL = {
    "id": TEXT, "title": TEXT, "source": TEXT, "notes": TEXT,
    "overrides": Same("the settings of this table: test_effects"),
    "task": Same("which metric, and of what kind of data: test_protocols"), "probe": "knn", "metric": "mean_accuracy",
    "scorer": {"name": "segmentation", "args": {"absent": "zero"}}, "grid": 8, "decode": "grid",
    "reads": "patches", "precision": "bfloat16",
    "data.name": Same("which data set: test_evaluate_images"), "data.train": "val", "data.val": "train",
    "data.options": Changes({"scale": 500}, WALK), "data.fraction": 0.4,
    "image.short_side": 12, "image.size": [16, 48], "image.stride": Refused(14),
    "train.steps": Changes(2, STEPS), "train.batch": Changes(1, STEPS), "train.scale": Changes([0.7, 2.0], CROPS),
    "train.crop": Changes([16, 16], STEPS), "train.flip": Changes(True, STEPS),
    "train.label_stride": Changes(3, STEPS),
    "support.passes": Changes(1, PASSES), "support.scale": Changes([0.2, 0.3], PASSES),
    "support.ratio": Changes([2.0, 2.5], PASSES), "support.jitter": Changes(0.5, PASSES),
    "support.names": Same("a file under the root of the data: test_protocols, test_evaluate_published"),
    "scoring.matching": Changes("many_to_one", {"probe": "ridge(penalty=1e4)"}), "scoring.absent": "zero",
    "scoring.low": Changes(1.5, WALK),
    "scoring.high": Changes(2.0, WALK), "scoring.align": Changes("median", WALK), "scoring.mask_side": 6,
    "scoring.unseen": Refused(["car"], "cannot predict classes without labels"),
}  # fmt: skip
EXPORTERS = {"onnx": {"opset": Same("the version that the written file states: test_export")}}
TABLE = {
    f"{kind} {name}": lines
    for kind, parts in (
        ("backbone", BACKBONES), ("metric", METRICS), ("cue", CUES), ("segmenter", SEGMENTERS), ("task", TASKS),
        ("label-format", FORMATS), ("exporter", EXPORTERS), ("converter", CONVERTERS), ("measure", MEASURES),
        ("protocol", {"any": PROTOCOL}),
    )
    for name, lines in parts.items()
}  # fmt: skip
