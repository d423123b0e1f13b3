"""Each data set's official layout, made tiny: two images of 12 x 18 (H x W) a split, or one clip of three frames."""

import json
from functools import partial

import numpy as np
from PIL import Image

H, W = 12, 18


def image(path, size=(H, W), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return values


def labels(path, values, palette=False, dtype=np.uint8):
    """Write values [H, W], or a list of values as equal vertical stripes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = stripes(values) if isinstance(values, (list, tuple)) else values
    picture = Image.fromarray(values.astype(dtype))
    if palette:
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    picture.save(path)
    return values


def stripes(values):
    return np.repeat(np.array(values), W // len(values))[None].repeat(H, axis=0)


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def davis(root, year="2016", values=(0, 255), resolution="480p", split="val"):
    for name in ("camel", "goat"):
        for index in range(3):
            image(root / "JPEGImages" / resolution / name / f"{index:05d}.jpg")
            labels(root / "Annotations" / resolution / name / f"{index:05d}.png", list(values), palette=True)
    text(root / "ImageSets" / year / f"{split}.txt", "camel", "goat")


def youtube_vos(root):
    for index in range(0, 15, 5):
        image(root / "valid/JPEGImages/0a1b" / f"{index:05d}.jpg")
    labels(root / "valid/Annotations/0a1b/00000.png", [0, 1], palette=True)
    labels(root / "valid/Annotations/0a1b/00010.png", [0, 1, 2], palette=True)
    meta = {"videos": {"0a1b": {"objects": {"1": {"category": "ape", "frames": ["00000", "00010"]}}}}}
    text(root / "valid/meta.json", json.dumps(meta))


def stuff(root, where="stuffthingmaps", images="images/"):
    for name in ("000000000139", "000000000285"):
        image(root / f"{images}val2017/{name}.jpg")
        labels(root / f"{where}/val2017/{name}.png", [0, 10, 12, 91, 181, 255])


def instances(root):
    image(root / "val2017/000000000139.jpg")
    image(root / "val2017/000000000285.jpg")
    box = [[0, 0, 18, 0, 18, 12, 0, 12]], [[6, 0, 12, 0, 12, 6, 6, 6]]
    crowd = {"size": [H, W], "counts": [0, H, H * W - H]}  # the first column
    annotations = [
        {"id": 1, "image_id": 139, "category_id": 1, "iscrowd": 0, "area": 36, "segmentation": box[1]},
        {"id": 2, "image_id": 139, "category_id": 2, "iscrowd": 0, "area": 216, "segmentation": box[0]},
        {"id": 3, "image_id": 285, "category_id": 1, "iscrowd": 1, "area": 12, "segmentation": crowd},
    ]
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "height": H, "width": W} for i in (139, 285)]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1}, {"id": 2}]}
    text(root / "annotations/instances_val2017.json", json.dumps(document))


def ade20k(root, split="validation"):
    for name in ("ADE_val_00000001", "ADE_val_00000002"):
        image(root / f"images/{split}/{name}.jpg")
        labels(root / f"annotations/{split}/{name}.png", [0, 1, 150])


def voc(root):
    for name in ("2007_000033", "2007_000042"):
        image(root / f"JPEGImages/{name}.jpg")
        labels(root / f"SegmentationClass/{name}.png", [0, 20, 255], palette=True)
        labels(root / f"SegmentationObject/{name}.png", [1, 2, 255], palette=True)
    image(root / "JPEGImages/2007_000999.jpg")  # of no list
    text(root / "ImageSets/Segmentation/val.txt", "2007_000033", "2007_000042")


def pascal_context(root):
    for name in ("2008_000002", "2008_000003"):
        image(root / f"JPEGImages/{name}.jpg")
        labels(root / f"SegmentationClassContext/{name}.png", [0, 1, 59])
    text(root / "ImageSets/SegmentationContext/val.txt", "2008_000002", "2008_000003")


def cityscapes(root):
    for name in ("lindau/lindau_000000_000019", "munster/munster_000000_000019"):
        image(root / f"leftImg8bit/val/{name}_leftImg8bit.png")
        labels(root / f"gtFine/val/{name}_gtFine_labelIds.png", [0, 7, 33])
        labels(root / f"gtFine/val/{name}_gtFine_instanceIds.png", [0, 7, 33])


def acdc(root):
    for condition in ("fog", "night", "rain", "snow"):
        name = f"{condition}/val/GOPR0351/GOPR0351_frame_000159"
        image(root / f"rgb_anon/{name}_rgb_anon.png")
        labels(root / f"gt/{name}_gt_labelIds.png", [0, 7, 33])


def camvid(root, classic=False):
    for name in ("0016E5_07959", "0016E5_07961"):
        image(root / (f"val/{name}.png" if classic else f"val/images/{name}.jpg"))
        labels(root / (f"valannot/{name}.png" if classic else f"val/labels/{name}.png"), [0, 10, 11])


def rgbd(root, frames=5):
    for index in range(frames):
        image(root / f"frame-{index:06d}.color.jpg")
        labels(root / f"frame-{index:06d}.depth.png", [0, 1500, 65535], dtype=np.uint16)
        text(root / f"frame-{index:06d}.pose.txt", "1 0 0 0", "0 1 0 0", "0 0 1 0", "0 0 0 1")
    text(root / "camera-intrinsics.txt", "585 0 9", "0 585 6", "0 0 1")


def nyu_folder(root, normals=False):
    for name in ("0001", "0003"):
        image(root / f"test/rgb/{name}.png")
        labels(root / f"test/depth/{name}.png", [0, 2000, 2000], dtype=np.uint16)
        labels(root / f"test/seg40/{name}.png", [0, 1, 40])
        if normals:
            normal_pictures(root / "test", name)


def normal_pictures(root, name):
    """A wall seen head-on as the published pictures have it, (0, 0, 1) away from the camera; the left half masked."""
    (root / "normals").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((H, W, 3), (127, 128, 255), dtype=np.uint8)).save(root / f"normals/{name}.png")
    labels(root / f"masks/{name}.png", [0, 255])


def nyu_mat(root, frames=4):
    """The .mat as MATLAB writes it: columns first. Frame i: depth i + 1 metres, a hole in rawDepths, label i."""
    import h5py
    import scipy.io

    root.mkdir(parents=True, exist_ok=True)
    pictures = np.random.default_rng(0).integers(0, 256, (frames, H, W, 3), dtype=np.uint8)
    depth = np.arange(1, frames + 1, dtype=np.float32)[:, None, None].repeat(H, 1).repeat(W, 2)
    raw = depth.copy()
    raw[:, 0, 5] = 0
    label = np.arange(frames, dtype=np.uint16)[:, None, None].repeat(H, 1).repeat(W, 2)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = pictures.transpose(0, 3, 2, 1)
        for name, values in (("depths", depth), ("rawDepths", raw), ("labels", label)):
            file[name] = values.transpose(0, 2, 1)
    scipy.io.savemat(root / "splits.mat", {"trainNdxs": np.array([[1], [3]]), "testNdxs": np.array([[2], [4]])})
    scipy.io.savemat(root / "classMapping40.mat", {"mapClass": np.array([[40, 5, 1]])})
    return pictures


def folder(root, split="", values=(0, 1, 2), palette=True):
    for name in ("a", "b"):
        image(root / split / f"images/{name}.jpg")
        labels(root / split / f"labels/{name}.png", list(values), palette=palette)


def cityscapes_acdc(root):
    cityscapes(root / "cityscapes")
    acdc(root / "acdc")


def clips(root):
    for index in range(2):
        image(root / "a" / f"{index}.png")


def kinetics(root):
    from dense_ctx.data.video import write_video

    write_video(root / "train/zumba/b_000001_000011.mp4", [np.zeros((H, W, 3), dtype=np.uint8)] * 2)


def vos(root):
    for index in range(2):
        image(root / f"frames/{index:05d}.jpg")
        labels(root / f"masks/{index:05d}.png", [0, 3], palette=True)


# name of each data set that the library registers: what makes it, split, options
SETS = {
    "acdc": (acdc, None, {}),
    "ade20k": (ade20k, None, {}),
    "camvid": (camvid, None, {}),
    "cityscapes": (cityscapes, None, {}),
    "cityscapes-acdc": (cityscapes_acdc, None, {}),
    "clips": (clips, None, {}),
    "coco-instances": (instances, None, {}),
    "coco-stuff171": (stuff, None, {}),
    "coco-stuff27": (stuff, None, {}),
    "davis2016": (davis, None, {}),
    "davis2017": (partial(davis, year="2017", values=(0, 1, 2)), None, {}),
    "image-folder": (folder, None, {"classes": 3}),
    "kinetics700": (kinetics, None, {}),
    "nyuv2": (nyu_folder, None, {}),
    "pascal-context": (pascal_context, None, {}),
    "rgbd-folder": (rgbd, None, {}),
    "voc2012": (voc, None, {}),
    "vos-folder": (vos, None, {}),
    "youtube-vos": (youtube_vos, "valid", {}),
}
