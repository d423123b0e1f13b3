"""Estimators of scikit-learn: its own checks, and what they mean for images."""

import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from dense_ctx_predict import Predictor
from PIL import Image

from dense_ctx import AutoDenseModel, InContext
from dense_ctx.errors import ConfigError, DenseCtxError, InputError, NotFittedError

pytest.importorskip("sklearn")
from dense_ctx_sklearn import DenseTransformer, PixelClassifier, PixelRegressor
from sklearn import exceptions
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

PLAIN = "rgb-xy+upsample"
ROOT = Path(__file__).parent.parent

# the kernel regression of the default method rounds its sums in float32 differently with the rows that are multiplied
# at once, by up to 3e-5 of a probability; the checks allow 1e-7
ROUNDING = "the kernel regression of ensemble, in float32, rounds with the number of rows that are read at once"
BY_ROUNDING = {"check_methods_subset_invariance": ROUNDING, "check_methods_sample_order_invariance": ROUNDING}


def by_rounding(estimator):
    return BY_ROUNDING if estimator.method == "ensemble" else {}


@parametrize_with_checks(
    [PixelClassifier(), PixelRegressor(), PixelClassifier(method="ridge"), PixelRegressor(method="ridge")],
    expected_failed_checks=by_rounding,
)
def test_of_features_they_pass_scikit_learn_s_checks(estimator, check):
    check(estimator)


TABLE = "it fits a table of numbers, which holds no image; with features in place of a model it passes"
GRACE = "it expects the message of a table's fault, and a table is refused as a whole"
LIKE = "it gives a stand-in of an array, of which images are not made"
# that cannot apply to images: check -> reason
OF_TABLES = {
    **dict.fromkeys((
        "check_fit_score_takes_y", "check_estimators_overwrite_params", "check_dont_overwrite_parameters",
        "check_estimators_fit_returns_self", "check_readonly_memmap_input", "check_n_features_in_after_fitting",
        "check_positive_only_tag_during_fit", "check_estimators_dtypes", "check_dtype_object",
        "check_pipeline_consistency", "check_estimators_pickle", "check_f_contiguous_array_estimator",
        "check_methods_sample_order_invariance", "check_methods_subset_invariance", "check_dict_unchanged",
        "check_fit_idempotent", "check_fit_check_is_fitted", "check_n_features_in", "check_fit2d_predict1d",
    ), TABLE),
    **dict.fromkeys((
        "check_complex_data", "check_estimators_empty_data_messages", "check_estimators_nan_inf",
        "check_fit2d_1sample", "check_fit2d_1feature",
    ), GRACE),
}  # fmt: skip
OF_CLASSIFIERS = {
    **dict.fromkeys(("check_classifiers_classes", "check_classifiers_train", "check_supervised_y_2d"), TABLE),
    **dict.fromkeys(("check_classifiers_one_label", "check_classifiers_regression_target"), GRACE),
    "check_classifier_data_not_an_array": LIKE,
}
OF_REGRESSORS = {
    **dict.fromkeys((
        "check_regressors_train", "check_regressor_multioutput", "check_regressors_no_decision_function",
        "check_supervised_y_2d", "check_regressors_int",
    ), TABLE),
    "check_regressor_data_not_an_array": LIKE,
}  # fmt: skip
OF_TRANSFORMERS = {
    **dict.fromkeys(("check_transformer_general", "check_transformer_preserve_dtypes"), TABLE),
    "check_transformer_data_not_an_array": LIKE,
}


def of_tables(kind):
    """An estimator of images that says it takes tables: otherwise scikit-learn leaves all checks out."""

    class Claiming(kind):
        def __sklearn_tags__(self):
            tags = super().__sklearn_tags__()
            tags.input_tags.two_d_array = True
            return tags

    Claiming.__name__ = kind.__name__
    return Claiming


@pytest.mark.parametrize(
    ("kind", "own"),
    [(PixelClassifier, OF_CLASSIFIERS), (PixelRegressor, OF_REGRESSORS), (DenseTransformer, OF_TRANSFORMERS)],
)
def test_of_images_exactly_these_checks_cannot_apply(kind, own):
    expected = {**OF_TABLES, **own}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(of_tables(kind)(PLAIN), expected_failed_checks=expected, on_fail=None, on_skip=None)
    names = {status: {r["check_name"] for r in results if r["status"] == status} for status in ("failed", "xfail")}
    assert names["failed"] == set()
    assert names["xfail"] == set(expected)
    assert sum(r["status"] == "passed" for r in results) >= 16


def test_images_are_said_to_be_no_table():
    assert not PixelClassifier(PLAIN).__sklearn_tags__().input_tags.two_d_array
    assert PixelClassifier().__sklearn_tags__().input_tags.two_d_array
    assert not DenseTransformer(PLAIN).__sklearn_tags__().input_tags.two_d_array


def scenes(count=4, size=(24, 32)):
    """Red boxes on blue noise, their masks (0 and 7) and their depth."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 70, (count, *size, 3), dtype=np.uint8)
    images[..., 2] += 120
    masks = np.zeros((count, *size), dtype=np.int64)
    for i in range(count):
        images[i, 6:18, 4 + 3 * i : 18 + 3 * i] = (220, 30, 20)
        masks[i, 6:18, 4 + 3 * i : 18 + 3 * i] = 7
    return images, masks, images[..., 0].astype(np.float32) / 100


def estimators():
    images, masks, depth = scenes()
    return [
        (PixelClassifier(PLAIN, "ridge"), images, masks),
        (PixelRegressor(PLAIN, "ridge"), images, depth),
        (DenseTransformer(PLAIN), images, None),
    ]


def output(estimator, images):
    return estimator.transform(images) if isinstance(estimator, DenseTransformer) else estimator.predict(images)


@pytest.mark.parametrize("index", range(3))
def test_what_the_checks_of_tables_ask_holds_for_images(index, tmp_path):
    estimator, images, y = estimators()[index]
    before = estimator.get_params()
    assert estimator.fit(images, y) is estimator
    assert estimator.get_params() == before
    results = output(estimator, images)
    assert len(results) == len(images)
    np.testing.assert_array_equal(output(clone(estimator).fit(images, y), images), results)  # twice the same
    np.testing.assert_array_equal(output(pickle.loads(pickle.dumps(estimator)), images), results)
    np.testing.assert_array_equal(np.concatenate([output(estimator, images[i : i + 1]) for i in range(4)]), results)
    np.testing.assert_array_equal(output(estimator, images[::-1]), results[::-1])
    np.testing.assert_array_equal(output(estimator, np.asfortranarray(images)), results)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    np.testing.assert_array_equal(output(clone(estimator).fit(mapped, y), mapped), results)
    as_floats = output(estimator, (images / 255).astype(np.float64))
    np.testing.assert_allclose(as_floats, results, atol=1e-4)
    many = output(estimator, list(images))
    assert isinstance(many, list)
    np.testing.assert_array_equal(np.stack(many), results)
    spoilt = images / 255
    spoilt[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN or infinity"):
        estimator.fit(spoilt, y), output(estimator, spoilt)


@pytest.mark.parametrize("index", range(3))
def test_before_fit_both_errors_are_raised(index):
    estimator, images, _ = estimators()[index]
    for kind in (NotFittedError, exceptions.NotFittedError, ValueError):
        with pytest.raises(kind, match="is not fitted yet: call fit"):
            output(estimator, images)


def test_the_classifier_is_in_context():
    images, masks, _ = scenes()
    classifier = PixelClassifier(PLAIN, "knn(k=3)").fit(list(images[:2]), list(masks[:2]))
    context = InContext(AutoDenseModel.from_parts("rgb-xy", "upsample"), "knn", k=3).fit(
        list(images[:2]), list(masks[:2])
    )
    assert classifier.classes_.tolist() == [0, 7]
    for image, labels, shares in zip(images, classifier.predict(images), classifier.predict_proba(images), strict=True):
        np.testing.assert_array_equal(labels, context.predict(image).numpy())
        np.testing.assert_array_equal(shares, context.predict_proba(image).movedim(0, -1).numpy())


def test_classes_are_sorted_whatever_the_masks_show_first():
    images, masks, _ = scenes()
    crops = [image[6:18, 10:] for image in images]
    targets = [7 - mask[6:18, 10:] for mask in masks]  # the first pixel is of class 0 where it was of 7
    assert targets[0][0, 0] == 0
    assert 7 - targets[0][0, -1] == 0
    flipped = [mask[:, ::-1] for mask in targets]
    classifier = PixelClassifier(PLAIN, "ridge").fit([crop[:, ::-1] for crop in crops], flipped)
    assert classifier.classes_.tolist() == [0, 7]
    assert classifier.score([crop[:, ::-1] for crop in crops], flipped) > 0.95


def test_the_regressor_is_in_context():
    images, _, depth = scenes()
    several = np.stack([depth, 1 - depth], axis=-1)
    regressor = PixelRegressor(PLAIN, "ridge").fit(images, several)
    context = InContext(AutoDenseModel.from_parts("rgb-xy", "upsample"), "ridge", "regression").fit(
        list(images), [np.moveaxis(item, -1, 0) for item in several]
    )
    values = regressor.predict(images)
    assert values.shape == (4, 24, 32, 2)
    np.testing.assert_array_equal(values[1], context.predict(images[1]).movedim(0, -1).numpy())
    assert PixelRegressor(PLAIN, "ridge").fit(images, depth).predict(images).shape == (4, 24, 32)


def test_scores_count_what_is_annotated():
    images, masks, depth = scenes()
    classifier = PixelClassifier(PLAIN, "ridge", ignore_index=255).fit(images[:1], masks[:1])
    right = classifier.predict(images[1:]) == masks[1:]
    assert classifier.score(images[1:], masks[1:]) == pytest.approx(right.mean())
    partly = np.where(right, 255, masks[1:])
    partly[:, :2] = masks[1:, :2]
    valid = partly != 255
    assert classifier.score(images[1:], partly) == pytest.approx(right[valid].mean())
    unknown = np.where(masks[1:] == 7, 3, 0)  # a class that the classifier has not learnt is wrong
    expected = (classifier.predict(images[1:]) == unknown).mean()
    assert classifier.score(images[1:], unknown) == pytest.approx(expected)
    assert classifier.classes_.tolist() == [0, 7]
    with pytest.raises(InputError, match="holds 0 and 255, and in another mask 255 means not annotated"):
        PixelClassifier(PLAIN, "ridge").fit(images, masks).score(images, np.where(masks == 7, 255, 0))
    regressor = PixelRegressor(PLAIN, "ridge").fit(images[:1], depth[:1])
    holes = depth[1:].copy()
    holes[:, :5] = np.nan
    wrong, valid = regressor.predict(images[1:]) - holes, np.isfinite(holes)
    r2 = 1 - (wrong[valid] ** 2).sum() / ((holes[valid] - holes[valid].mean()) ** 2).sum()
    assert regressor.score(images[1:], holes) == pytest.approx(r2, abs=1e-4)


def test_ignore_index_counts():
    images, masks, _ = scenes()
    three = np.where(masks == 7, masks, 0)
    three[:, :3] = 9
    assert PixelClassifier(PLAIN, "ridge").fit(images, three).classes_.tolist() == [0, 7, 9]
    assert PixelClassifier(PLAIN, "ridge", ignore_index=9).fit(images, three).classes_.tolist() == [0, 7]
    with pytest.warns(UserWarning, match="0 and 255 alone"):
        white = PixelClassifier(PLAIN, "ridge").fit(images, np.where(masks == 7, 255, 0).astype(np.uint8))
    assert white.classes_.tolist() == [0, 1]
    table, labels = images.reshape(-1, 3)[::7] / 255.0, three.ravel()[::7]
    assert PixelClassifier(method="ridge", ignore_index=9).fit(table, labels).classes_.tolist() == [0, 7]
    many = np.where(labels == 9, 255, labels)  # of a table each row has a label
    assert PixelClassifier(method="ridge").fit(table, many).classes_.tolist() == [0, 7, 255]


def test_more_than_255_classes():
    image = np.arange(300 * 3, dtype=np.uint8).reshape(1, 15, 20, 3)
    mask = np.arange(1000, 1300).reshape(1, 15, 20)
    classifier = PixelClassifier(PLAIN, "knn(k=1)", ignore_index=None).fit(image, mask)
    assert classifier.classes_.tolist() == list(range(1000, 1300))
    np.testing.assert_array_equal(classifier.predict(image), mask)
    with pytest.raises(InputError, match="ids up to 299 and holds 255, which is ignored by default"):
        PixelClassifier(PLAIN, "knn(k=1)").fit(image, mask - 1000)
    table = np.random.default_rng(0).standard_normal((600, 32))
    names = np.array([f"class {i % 300:03d}" for i in range(600)])
    assert PixelClassifier(method="knn(k=1)").fit(table, names).predict(table).tolist() == names.tolist()


def test_rows_of_a_table_have_no_neighbours():
    rng = np.random.default_rng(0)
    table = rng.standard_normal((9000, 5))  # more than a map's 8,192 cells: of an image, neighbours are averaged
    labels = (table[:, 0] > 0).astype(int)
    for method in ("knn", "ensemble"):
        assert PixelClassifier(method=method).fit(table, labels).score(table, labels) > 0.95


def test_a_pipeline_reads_features_once(tmp_path, monkeypatch):
    images, masks, _ = scenes()
    runs = []
    transform = DenseTransformer.transform
    monkeypatch.setattr(DenseTransformer, "transform", lambda self, X: (runs.append(len(X)), transform(self, X))[1])
    pipeline = make_pipeline(DenseTransformer(PLAIN), PixelClassifier(method="ridge"), memory=str(tmp_path))
    grid = {"pixelclassifier__method": ["ridge(penalty=0.001)", "ridge(penalty=1000000.0)", "knn(k=3)"]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(images, masks)
    scores = dict(zip([p["pixelclassifier__method"] for p in search.cv_results_["params"]],
                      search.cv_results_["mean_test_score"], strict=True))  # fmt: skip
    assert scores["ridge(penalty=0.001)"] > scores["ridge(penalty=1000000.0)"]
    assert search.best_score_ > 0.95
    direct = PixelClassifier(PLAIN, "ridge(penalty=0.001)").fit(images, masks)
    stepwise = pipeline.set_params(pixelclassifier__method="ridge(penalty=0.001)").fit(images, masks)
    np.testing.assert_array_equal(stepwise.predict(images), direct.predict(images))
    assert stepwise[-1].n_features_in_ == stepwise[0].model_.dim
    assert runs.count(4) >= 1


def test_search_and_validation_over_images_of_any_size():
    images, masks, depth = scenes(6)
    mixed = [image[: 24 - i] for i, image in enumerate(images)]
    search = GridSearchCV(
        PixelClassifier(PLAIN), {"method": ["ridge", "knn(k=3)"], "max_memory": [None]}, cv=KFold(2)
    ).fit(mixed, [mask[: 24 - i] for i, mask in enumerate(masks)])
    assert search.best_score_ > 0.95
    assert (cross_val_score(PixelClassifier(PLAIN, "ridge"), images, masks, cv=3) > 0.95).all()
    assert (cross_val_score(PixelRegressor(PLAIN, "ridge"), images, depth, cv=3) > 0.9).all()
    assert cross_val_predict(PixelClassifier(PLAIN, "ridge"), images, masks, cv=3).shape == masks.shape


def test_features_of_images_for_any_estimator():
    images, _, _ = scenes(8)
    images[::2] = 255 - images[::2]
    pipeline = make_pipeline(DenseTransformer(PLAIN, pool=True), StandardScaler(), LogisticRegression())
    assert pipeline.fit(images, np.arange(8) % 2).score(images, np.arange(8) % 2) == 1
    names = pipeline[0].get_feature_names_out()
    assert names[0] == "densetransformer0"
    assert len(names) == pipeline[0].transform(images).shape[1]


def test_what_the_transformer_gives():
    images, _, _ = scenes(2)
    model = AutoDenseModel.from_parts("rgb-xy", "upsample")
    features = model(images[0])
    pixels = DenseTransformer(PLAIN).fit_transform(images)
    assert pixels.shape == (2, 24, 32, model.dim)
    np.testing.assert_array_equal(pixels[0], features.pixels[0].movedim(0, -1).numpy())
    patches = DenseTransformer(model, level="patches").fit_transform(images)
    np.testing.assert_array_equal(patches[0], features.patches[0].movedim(0, -1).numpy())
    small = DenseTransformer(PLAIN, size=(6, 8)).fit_transform(images)
    assert small.shape == (2, 6, 8, model.dim)
    pooled = DenseTransformer(PLAIN, pool=True).fit_transform(images)
    np.testing.assert_allclose(pooled, pixels.mean((1, 2)), rtol=1e-5, atol=1e-6)
    names = DenseTransformer(model, level="patches").fit(images).get_feature_names_out()
    assert len(names) == patches.shape[-1]


def test_files_and_modes(tmp_path):
    images, masks, _ = scenes(2)
    for i in range(2):
        Image.fromarray(images[i]).save(tmp_path / f"{i}.png")
        Image.fromarray(masks[i].astype(np.uint8)).save(tmp_path / f"{i}_mask.png")
    paths, targets = ([tmp_path / f"{i}{end}.png" for i in range(2)] for end in ("", "_mask"))
    classifier = PixelClassifier(PLAIN, "ridge").fit(paths, targets)
    np.testing.assert_array_equal(classifier.predict(paths), classifier.predict(images))
    np.testing.assert_array_equal(classifier.predict(np.array([str(p) for p in paths])), classifier.predict(images))
    for mode in ("L", "RGBA", "P", "CMYK"):
        assert classifier.predict([Image.fromarray(images[0]).convert(mode)])[0].shape == (24, 32)
    with pytest.raises(InputError, match="does not say what is white"):
        classifier.predict([Image.fromarray(images[0]).convert("I")])
    with pytest.raises(InputError, match="does not say what is white"):
        DenseTransformer(PLAIN).fit_transform([Image.fromarray(images[0]).convert("I")])


def test_wrong_input():
    images, masks, depth = scenes()
    table = np.zeros((5, 3))
    maps = np.zeros((2, 4, 5, 6), dtype=np.float32)
    classifier = PixelClassifier(PLAIN, "ridge").fit(images, masks)
    of_maps = PixelClassifier(method="ridge").fit(maps + np.arange(5)[:, None], np.arange(40).reshape(2, 4, 5) % 2)
    holed = maps.copy()
    holed[0, 0, 0, 0] = np.inf
    cases = [
        (lambda: PixelClassifier(PLAIN).fit(table, [0] * 5), "a table of 5 x 3. If its rows are features, leave model"),
        (lambda: PixelClassifier(PLAIN).fit("photo.jpg", masks), "a list of images, or an array .* got str"),
        (lambda: PixelClassifier(PLAIN).fit(np.arange(3), masks), r"got ndarray\[3\]"),
        (lambda: PixelClassifier(PLAIN).fit([], []), "There are no images"),
        (lambda: PixelClassifier(PLAIN).fit(images, None), "requires y to be passed, but the target y is None"),
        (lambda: PixelClassifier(PLAIN).fit(images, masks[:2]), "4 images need as many targets; got 2"),
        (lambda: PixelClassifier(PLAIN).fit(images, 3), "4 images need as many targets; got a int"),
        (lambda: PixelClassifier(PLAIN).fit(images, masks[:, 1:]), "The mask is 23 x 32 .* the image is 24 x 32"),
        (lambda: PixelClassifier(PLAIN).fit(images, depth), "floats that are not whole numbers"),
        (lambda: PixelClassifier(PLAIN).fit(images, masks * 0), "The masks leave one class, 0"),
        (lambda: PixelClassifier("no-such-model").fit(images, masks), "no-such-model"),
        (lambda: PixelClassifier(PLAIN, "nearest").fit(images, masks), "nearest"),
        (lambda: PixelClassifier(PLAIN, "ridge(k=3)").fit(images, masks), "k"),
        (lambda: PixelClassifier(PLAIN, "ridge(").fit(images, masks), "the bracket does not close"),
        (lambda: PixelClassifier(PLAIN, device="no-such-device").fit(images, masks), "no-such-device"),
        (lambda: PixelClassifier(PLAIN, max_memory="much").fit(images, masks), "much"),
        (lambda: PixelClassifier(PLAIN, ignore_index="all").fit(images, masks), "ignore_index='all'"),
        (lambda: PixelClassifier(max_memory="1GB").fit(maps, masks), "would have no effect without a model"),
        (lambda: PixelClassifier(device="cpu").fit(maps, masks), "would have no effect without a model"),
        (lambda: PixelClassifier().fit(maps, masks[:2]), "The mask is 24 x 32 .* the image is 4 x 5"),
        (lambda: PixelClassifier().fit(holed, masks[:2]), "A feature map holds NaN or infinity"),
        (lambda: PixelClassifier().fit([maps[0], maps[0][..., :2]], masks[:2]), "numbers .* of one D"),
        (lambda: of_maps.predict(maps[..., :5]), "X has 5 features, but PixelClassifier is expecting 6"),
        (lambda: classifier.predict(table), "a table of 5 x 3"),
        (lambda: classifier.predict(images[0]), r"got one image \[24, 32, 3\]: put it in a list"),
        (lambda: DenseTransformer(PLAIN).fit(images).transform(images[0]), "got one image"),
        (lambda: classifier.score(images, masks, np.ones(4)), "sample_weight is of the rows of a table"),
        (lambda: PixelRegressor(PLAIN, "ridge").fit(images, depth).score(images, depth, [1] * 4), "sample_weight"),
        (lambda: PixelRegressor(PLAIN).fit(images, ["a"] * 4), r"floats \[H, W\] or \[H, W, K\]; got"),
        (lambda: PixelRegressor(PLAIN).fit(images, depth * np.nan), "no finite value"),
        (lambda: PixelRegressor(PLAIN).fit(images, None), "requires y to be passed"),
        (lambda: DenseTransformer(PLAIN, level="cls").fit(images), "level='cls'"),
        (lambda: DenseTransformer(PLAIN, size=(0, 4)).fit(images), r"size=\(0, 4\)"),
        (lambda: DenseTransformer(PLAIN, size=(4, 4), level="patches").fit(images), "size would have no effect"),
        (lambda: DenseTransformer("no-such-model").fit(images), "no-such-model"),
        (lambda: DenseTransformer(PLAIN, device="no-such-device").fit(images), "no-such-device"),
        (lambda: DenseTransformer(PLAIN, max_memory="much").fit(images).transform(images), "much"),
    ]
    for call, message in cases:
        with pytest.raises(DenseCtxError, match=message) as error:
            call()
        assert isinstance(error.value, (ValueError, ConfigError, KeyError, OSError)), message


def test_names_of_a_table_s_columns():
    import pandas

    rng = np.random.default_rng(0)
    table = pandas.DataFrame(rng.standard_normal((30, 3)), columns=["red", "green", "blue"])
    labels = (table["red"] > 0).to_numpy()
    classifier = PixelClassifier(method="ridge").fit(table, labels)
    assert classifier.feature_names_in_.tolist() == ["red", "green", "blue"]
    with pytest.raises(InputError, match="feature names"):
        classifier.predict(table[["green", "blue", "red"]])


@pytest.mark.slow
def test_the_page_s_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "sklearn.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/sklearn.md", "exec"), names)
    for name, least in {"accuracy": 0.9, "folds": 0.9, "r2": 0.9}.items():
        assert np.min(names[name]) > least, name
    assert names["search"].best_score_ > 0.9


def test_the_page_lists_the_checks():
    text = (ROOT / "docs" / "sklearn.md").read_text(encoding="utf-8")
    for name in {*BY_ROUNDING, *OF_TABLES, *OF_CLASSIFIERS, *OF_REGRESSORS, *OF_TRANSFORMERS}:
        assert f"`{name.removeprefix('check_')}`" in text, name


def test_a_model_as_a_parameter_is_cloned_and_pickled():
    images, masks, _ = scenes()
    model = AutoDenseModel.from_parts("rgb-xy", "upsample")
    classifier = PixelClassifier(model, "ridge")
    copy = clone(classifier)
    assert copy.model is not model
    expected = classifier.fit(images, masks).predict(images)
    np.testing.assert_array_equal(copy.fit(images, masks).predict(images), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(copy)).predict(images), expected)
    assert classifier.set_params(model=PLAIN, method="knn").get_params()["method"] == "knn"
    assert (cross_val_score(PixelClassifier(model, "ridge"), images, masks, cv=2) > 0.95).all()


def test_what_was_fitted_is_a_predictor(tmp_path):
    images, masks, _ = scenes()
    classifier = PixelClassifier(PLAIN, "ridge").fit(images, masks)
    folder = Predictor(classifier.context_, names={7: "box"}).save(tmp_path / "predictor")
    predictor = Predictor.from_pretrained(folder)
    assert [item.name for item in predictor.classes] == ["background", "box"]
    np.testing.assert_array_equal(predictor.predict(images[1]).numpy(), classifier.predict(images)[1])


def test_of_a_table_labels_are_scored_as_they_are_predicted(tmp_path):
    maps = np.random.default_rng(0).standard_normal((2, 10, 10, 4)).astype(np.float32)
    masks = 1 + (maps[..., 0] > 0)  # 1 and 2, in places 0 and 1 of a table's labels
    table, labels = maps.reshape(-1, 4), masks.ravel()
    classifier = PixelClassifier(method="ridge").fit(table, labels)
    expected = float((classifier.predict(maps) == masks).mean())
    assert classifier.score(maps, masks) == expected > 0.9
    Image.fromarray(masks[0].astype(np.uint8)).save(tmp_path / "mask.png")
    assert classifier.score(maps[:1], [tmp_path / "mask.png"]) == classifier.score(maps[:1], masks[:1])
    assert classifier.score(maps, masks + 7) == 0, "labels that it has not are wrong"
    words = PixelClassifier(method="ridge").fit(table, np.array(["", "left", "right"])[labels])
    assert words.score(maps, np.array(["", "left", "right"])[masks]) == expected


def test_rows_that_are_ignored_do_not_count():
    table = np.random.default_rng(0).standard_normal((100, 4))
    labels = 1 + (table[:, 0] > 0)
    partly = labels.copy()
    partly[:60] = 9
    classifier = PixelClassifier(method="ridge", ignore_index=9).fit(table, partly)
    assert classifier.score(table, partly) == classifier.score(table[60:], labels[60:]) > 0.9
    weights = np.arange(100.0)
    expected = classifier.score(table[60:], labels[60:], weights[60:])
    assert classifier.score(table, partly, weights) == pytest.approx(expected)
    maps = table.reshape(1, 10, 10, 4)
    assert classifier.score(maps, partly.reshape(1, 10, 10)) == pytest.approx(classifier.score(table, partly))
    with pytest.raises(InputError, match="Every row has the label 9, which is ignored"):
        classifier.score(table, np.full(100, 9))
