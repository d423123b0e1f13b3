"""Automatic tasks: k-means, pairs, the stages from images to a folder that trains, interruption, faults."""

import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dense_ctx_dip.kmeans import assign, kmeans
from dense_ctx_dip.objective import DipObjective
from dense_ctx_dip.pairs import TaskPairs
from dense_ctx_dip.positives import nearest_images, positive_pairs, shared_class
from dense_ctx_dip.report import class_statistics
from dense_ctx_dip.segmenters import NcutSegmenter, Segmenter
from dense_ctx_dip.task_files import read_pseudo_labels, save_pseudo_labels
from dense_ctx_dip.task_settings import TaskSettings
from dense_ctx_dip.tasks import Tasks, make_tasks
from evaluation_data import save, scene
from ports import free_port
from torch import multiprocessing

from dense_ctx import AutoDenseModel, Part
from dense_ctx.cli import main
from dense_ctx.device import end_process_group
from dense_ctx.errors import ConfigError, FileError, InputError, MissingDependencyError
from dense_ctx.testing import check_objective

SETTINGS = {"side": 48, "classes": 8, "segmenter": Part("slic", {"segments": 12})}


def pictures(root, count=8, size=(48, 72)):
    for index in range(count):
        save(root / ("a" if index % 2 else "b") / f"{index}.png", scene(index, size)[0])
    return root


def model():
    """Mean colour and place of 8 x 8 cells: features in which the classes are plain."""
    return AutoDenseModel.from_parts("rgb-xy", "upsample")


def blobs(count=4, each=60, dim=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(count, dim, generator=draw)
    return (centres[:, None] + 0.3 * torch.randn(count, each, dim, generator=draw)).flatten(0, 1), centres


@pytest.mark.parametrize("engine", ["torch", "faiss"])
def test_kmeans_finds_the_blobs(engine):
    rows, centres = blobs()
    clusters = kmeans(rows, 4, engine=engine)
    assert float(torch.cdist(centres, clusters).amin(1).max()) < 0.3
    assert torch.equal(clusters, kmeans(rows, 4, engine=engine))
    sampled = kmeans(rows, 4, engine="torch", sample=20)
    assert float(torch.cdist(centres, sampled).amin(1).max()) < 0.5


def test_kmeans_lowers_the_error_and_leaves_no_centroid_empty():
    rows = torch.randn(700, 5, generator=torch.Generator().manual_seed(0))
    errors = [float(assign(rows, kmeans(rows, 70, iterations=n))[1].sum()) for n in (1, 3, 10)]
    assert errors[0] > errors[1] > errors[2]
    found, distance = assign(rows, centroids := kmeans(rows, 70), block=100)
    exact = torch.cdist(rows.double(), centroids.double())
    assert torch.equal(found, exact.argmin(1))
    assert torch.allclose(distance.double(), exact.amin(1) ** 2, atol=1e-4)
    assert len(found.unique()) == 70
    same = torch.ones(9, 3)  # fewer different rows than centroids
    assert kmeans(same, 4).shape == (4, 3)


def test_kmeans_faults(monkeypatch):
    with pytest.raises(InputError, match=r"3 segments cannot make 4 pseudo-classes: ask for at most 3"):
        kmeans(torch.randn(3, 2), 4)
    with pytest.raises(InputError, match="NaN"):
        kmeans(torch.full((9, 2), float("nan")), 4)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match="pip install faiss-cpu"):
        kmeans(torch.randn(9, 2), 4, engine="faiss")


def test_neighbours_in_blocks_and_never_oneself():
    features = torch.randn(23, 6, generator=torch.Generator().manual_seed(0))
    features[5] = features[7]  # a copy is a neighbour, oneself is not
    neighbours = dict(nearest_images(features, 5, block=4))
    unit = torch.nn.functional.normalize(features, dim=1)
    scores = (unit @ unit.T).fill_diagonal_(-9)
    assert all(neighbours[i] == scores[i].topk(5).indices.tolist() for i in range(23))
    assert neighbours[5][0] == 7
    assert dict(nearest_images(features[:1], 5)) == {0: []}


def test_pairs_share_a_class_in_both():
    shares = [{0: 0.5, 1: 0.5}, {0: 0.04, 1: 0.96}, {0: 0.05, 2: 0.95}, {}]
    assert shared_class(shares[0], shares[1]) == (1, 0.5)
    assert shared_class(shares[0], shares[3]) == (-1, 0.0)
    features = torch.eye(4) + 1
    pairs = {(one, two): (key, share) for one, two, key, share in positive_pairs(features, shares, 3, 0.05)}
    assert pairs == {(0, 1): (1, 0.5), (1, 0): (1, 0.5)}  # 0.05 of a picture is not more than 0.05
    with pytest.raises(InputError, match="shares of each of 4 images; got those of 3"):
        list(positive_pairs(features, shares[:3]))


def test_label_files(tmp_path):
    labels = torch.randint(-1, 7, (5, 9), generator=torch.Generator().manual_seed(0))
    for classes in (7, 300):
        save_pseudo_labels(tmp_path / "x.png", labels, classes)
        assert torch.equal(read_pseudo_labels(tmp_path / "x.png", classes), labels)
    with pytest.raises(InputError, match="expected -1 to 5"):
        save_pseudo_labels(tmp_path / "x.png", labels, 6)
    save(tmp_path / "rgb.png", scene(0)[0])
    with pytest.raises(FileError, match="is a RGB picture"):
        read_pseudo_labels(tmp_path / "rgb.png")
    np.save(tmp_path / "f.npy", np.zeros((2, 3)))
    with pytest.raises(FileError, match="holds float64"):
        read_pseudo_labels(tmp_path / "f.npy")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("tasks")
    pictures(root / "images")
    return make_tasks(root / "images", root / "out", model(), TaskSettings(**SETTINGS), "rgb-xy+upsample")


def test_classes_are_the_colours(made):
    """A pseudo-class is of one colour, but for cells that straddle a border (place counts too in these features)."""
    table = np.zeros((4, 8))
    for index in range(8):
        name = f"{'a' if index % 2 else 'b'}/{index}.png"
        np.add.at(table, (scene(index, (48, 72))[1], read_pseudo_labels(made / f"labels/{name}.png", 8).numpy()), 1)
    assert table.max(0).sum() / table.sum() > 0.65  # stripes of 13 pixels, cells of 8
    assert set(table.argmax(0)) == {0, 1, 2, 3}


def test_the_folder_trains_and_reports(made):
    rows = [json.loads(line) for line in (made / "pairs.jsonl").read_text().splitlines()]
    assert rows
    assert all(row["query"] != row["positive"] and row["shared"] > 0.05 for row in rows)
    assert len(TaskPairs.open(made)) == len(rows)
    assert "frozen" in check_objective("dip", str(made), args={"size": 32, "out": 8, "hidden": 1})
    objective = DipObjective()
    objective.dataset(made)
    assert objective.classes == 8
    statistics = class_statistics(made)
    assert (statistics["images"], statistics["unlabelled"], statistics["used"]) == (8, 0, 8)
    assert statistics["labelled_pixels"] == pytest.approx(1.0, abs=1e-5)
    page = (made / "report/index.html").read_text()
    assert f"{len(rows)} pairs" in page
    assert (made / "report/tasks.png").stat().st_size > 1000


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "report" not in path.parts
    }


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path, made, monkeypatch):
    monkeypatch.setattr("dense_ctx_dip.task_folder.SHARD", 3)
    images = pictures(tmp_path / "images")

    class Killed(Exception):
        pass

    def killer(after):
        count = 0

        def bar(items, total, what):
            nonlocal count
            for item in items:
                count += 1
                if count > after:
                    raise Killed
                yield item

        return bar

    out, settings = tmp_path / "killed", TaskSettings(**SETTINGS)
    kills = 0
    for after in (3, 6, 7, 2, 5, 4, 3):  # within segment, embed, cluster, vote and pair
        try:
            make_tasks(images, out, model(), settings, progress=killer(after))
        except Killed:
            kills += 1
    assert kills >= 5
    make_tasks(images, out, model(), settings)
    make_tasks(images, tmp_path / "straight", model(), settings)
    assert contents(out) == contents(tmp_path / "straight")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png") if "report" not in path.parts}
    make_tasks(images, out, model(), settings)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def worker(rank, port, images, out):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    import dense_ctx_dip.task_folder as module

    module.SHARD = 3
    make_tasks(images, out, model(), TaskSettings(**SETTINGS))
    end_process_group()


def test_two_processes_make_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("dense_ctx_dip.task_folder.SHARD", 3)
    images = pictures(tmp_path / "images")
    port = free_port()
    multiprocessing.spawn(worker, (port, images, tmp_path / "two"), nprocs=2)
    make_tasks(images, tmp_path / "one", model(), TaskSettings(**SETTINGS))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_an_image_without_segments_or_with_one(tmp_path, monkeypatch):
    """No segment: void all over, in no pair. One segment: one class."""
    images = pictures(tmp_path / "images", 6)
    wholes = iter([torch.full((48, 72), -1), torch.zeros(48, 72, dtype=torch.int64)])

    class Odd(NcutSegmenter):
        batch = Segmenter.batch  # one at a time

        def __call__(self, image, features, size):
            return next(wholes, super().__call__(image, features, size))

    registry = SimpleNamespace(create=lambda kind, name, **args: Odd(alpha=2))
    monkeypatch.setattr("dense_ctx_dip.tasks.registry", lambda: registry)
    out = make_tasks(images, tmp_path / "out", model(), TaskSettings(side=48, classes=3))
    first, second = "a/1.png", "a/3.png"  # in the order of their names
    assert read_pseudo_labels(out / f"labels/{first}.png").unique().tolist() == [-1]
    assert len(read_pseudo_labels(out / f"labels/{second}.png").unique()) == 1
    assert first not in {name for pair in TaskPairs.open(out).pairs for name in pair}
    assert class_statistics(out)["unlabelled"] == 1


def test_faults(tmp_path, made):
    images = pictures(tmp_path / "images", 3)
    with pytest.raises(InputError, match=r"segments cannot make 5000 pseudo-classes: ask for at most \d+"):
        make_tasks(images, tmp_path / "many", model(), TaskSettings(**{**SETTINGS, "classes": 5000}))
    with pytest.raises(InputError, match=r"No positive pair: among 3 images .* over more than 99% of both"):
        make_tasks(images, tmp_path / "none", model(), TaskSettings(**{**SETTINGS, "shared": 0.99}))
    with pytest.raises(FileError, match=r"has no pairs\.jsonl yet"):
        TaskPairs.open(tmp_path / "none")
    for failed in ("many", "none"):  # a stage that wrote nothing does not bind: the message's advice can be followed
        assert len(TaskPairs.open(make_tasks(images, tmp_path / failed, model(), TaskSettings(**SETTINGS))))
    alone = pictures(tmp_path / "one", 1)
    with pytest.raises(InputError, match=r"No positive pair: among 1 images .* Take more images$"):
        make_tasks(alone, tmp_path / "alone", model(), TaskSettings(**{**SETTINGS, "classes": 2}))
    again = make_tasks  # a change of the last stage alone: what to remove is said
    with pytest.raises(ConfigError, match=r"pair.shared: 0.05 there, 0.99 now.*remove pairs.jsonl"):
        again(images, tmp_path / "none", model(), TaskSettings(**{**SETTINGS, "shared": 0.99}))
    with pytest.raises(ConfigError, match=r"segment.side: 48 there, 64 now"):
        again(images, tmp_path / "none", model(), TaskSettings(**{**SETTINGS, "side": 64}))
    with pytest.raises(FileError, match="exists and holds no tasks"):
        make_tasks(images, images, model(), TaskSettings(**SETTINGS))
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileError, match="holds no images"):
        make_tasks(tmp_path / "bare", tmp_path / "x", model(), TaskSettings(**SETTINGS))
    with pytest.raises(InputError, match=r"shared=1.5: within \[0, 1\)"):
        TaskSettings(shared=1.5)


def test_a_broken_image_is_left_out(tmp_path):
    images = pictures(tmp_path / "images", 6)
    (images / "a/0broken.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"0broken\.png is left out"):
        out = make_tasks(images, tmp_path / "out", model(), TaskSettings(**SETTINGS))
    assert class_statistics(out)["images"] == 6
    only = tmp_path / "only"
    only.mkdir()
    (only / "x.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="is left out"), pytest.raises(FileError, match="None of 1 images is usable"):
        make_tasks(only, tmp_path / "out2", model(), TaskSettings(**SETTINGS))


def test_the_verb(tmp_path, capsys):
    images = pictures(tmp_path / "images", 6)
    words = ["pseudo-label", images, "--out", tmp_path / "out", "--model", "rgb-xy", "--device", "cpu"]
    words = [*map(str, words), "--segmenter", "slic(segments=12)", "classes=4", "side=48"]
    assert main(words) == 0
    assert "pairs.jsonl" in capsys.readouterr().out
    assert len(TaskPairs.open(tmp_path / "out"))
    for wrong, message in {
        "shared=0.5": "pair.shared: 0.05 there, 0.5 now",
        "shared=[0.5]": "pseudo-label: shared is [0.5]; expected a number",
        "clases=3": "unknown key(s) clases (did you mean classes?); known: classes, iterations",
        "classes=3": "'classes=3' contradicts 'classes=4'",
        "kmeans=fast": "kmeans is 'fast'; expected one of auto, torch, faiss",
        "segmenter=ncut": "segmenter=... is written --segmenter",
        "segments": "'segments' is not KEY=VALUE",
    }.items():
        assert main([*words, wrong]) == 2
        assert message in capsys.readouterr().err
    assert main([*words[:-3], "slik"]) == 2
    assert "Closest: slic" in capsys.readouterr().err
    assert Tasks  # the class behind it is public
