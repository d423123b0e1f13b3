"""Label Studio's protocol: annotated tasks are the context, the others are predicted; a click marks an object."""

import threading
import warnings

import numpy as np
import pytest
from dense_ctx_predict import Predictor
from dense_ctx_serve import studio
from dense_ctx_serve.pictures import StoredPictures
from explore_site import HEIGHT, WIDTH, box, picture
from PIL import Image
from serve_site import CONFIG, brush, encoded, fake_studio, keypoint, mask_of, overlap, refusal, site

from dense_ctx import AutoDenseModel, InContext
from dense_ctx.errors import InputError

PROJECT = "1.1700000000"


@pytest.fixture
def label_studio():
    with fake_studio() as state:
        yield state


@pytest.fixture
def client(label_studio):
    with site(studio=label_studio.url) as client:
        yield client


def ask(client, label_studio, indices, project=PROJECT, context=None):
    tasks = [{"id": label_studio.tasks[i]["id"], "data": label_studio.tasks[i]["data"]} for i in indices]
    body = {"tasks": tasks, "project": project, "label_config": CONFIG, "params": {"context": context}}
    return client.post("/predict", json=body)


def hook(client, action="ANNOTATION_CREATED", project=1):
    return client.post("/webhook", json={"action": action, "project": {"id": project}, "annotation": {}})


def settle(client):
    client.desk.worker.submit(9, lambda: None).result(20)


def test_annotated_tasks_predict_the_others(client, label_studio):
    assert client.get("/health").json()["status"] == "UP"
    label_studio.annotate(0)
    answer = ask(client, label_studio, [1, 2, 3]).json()
    assert len(answer["results"]) == 3
    for index, prediction in enumerate(answer["results"], 1):
        (region,) = prediction["result"]  # background has no region
        assert (region["type"], region["from_name"], region["to_name"]) == ("brushlabels", "tag", "img")
        assert region["value"]["brushlabels"] == ["box"]
        assert overlap(mask_of(region), box(3 * index)) > 0.9
        assert 0 < prediction["score"] < 1
        assert prediction["model_version"] == answer["model_version"]
    assert {authorization for _, authorization in label_studio.asked} == {"Token " + "f00d" * 10}


def test_the_version_follows_the_annotations(client, label_studio):
    body = {"project": PROJECT, "schema": CONFIG, "hostname": "http://10.0.0.1:1", "access_token": "other"}
    empty = client.post("/setup", json=body).json()["model_version"]
    label_studio.annotate(0)
    hook(client)
    one = client.post("/setup", json=body).json()["model_version"]
    assert one == ask(client, label_studio, [1]).json()["results"][0]["model_version"]
    label_studio.annotate(2)
    hook(client)
    two = client.post("/setup", json=body).json()["model_version"]
    label_studio.tasks[2]["annotations"] = []
    hook(client, "ANNOTATIONS_DELETED")
    assert client.post("/setup", json=body).json()["model_version"] == one
    assert len({empty, one, two}) == 3
    assert all(isinstance(sent, str) for _, sent in label_studio.asked), "no other token was tried"


def test_a_changed_annotation_changes_predictions(client, label_studio):
    label_studio.annotate(0)
    before = ask(client, label_studio, [1]).json()["results"][0]
    label_studio.annotate(0, [brush(~box(), "box")])  # the surroundings
    assert ask(client, label_studio, [1]).json()["results"][0] == before, "asked for a moment ago"
    hook(client, "ANNOTATION_UPDATED")
    after = ask(client, label_studio, [1]).json()["results"][0]
    assert overlap(mask_of(after["result"][0]), ~box(3)) > 0.9
    again = ask(client, label_studio, [1]).json()["results"][0]
    assert again == after


def test_polygons_rectangles_and_labels_beside_brushes_teach_too(client, label_studio):
    common = {"original_width": WIDTH, "original_height": HEIGHT, "from_name": "x", "to_name": "img", "id": "p"}
    percent = {"x": 100 * 20 / WIDTH, "y": 100 * 12 / HEIGHT, "width": 100 * 24 / WIDTH, "height": 100 * 24 / HEIGHT}
    label_studio.annotate(0, [{**common, "type": "rectanglelabels", "value": {**percent, "rectanglelabels": ["box"]}}])
    (region,) = ask(client, label_studio, [1]).json()["results"][0]["result"]
    assert overlap(mask_of(region), box(3)) > 0.9


def test_an_empty_annotation_is_background(client, label_studio):
    label_studio.annotate(0)
    label_studio.annotate(1, [])
    label_studio.images[label_studio.tasks[3]["data"]["photo"]] = encoded(picture(0, 3)[:12])
    answer = ask(client, label_studio, [3]).json()["results"][0]
    assert answer["result"] == [], "nothing but background, which is no label of the project"


def test_the_rest_is_ignored_where_background_is_a_label(label_studio):
    label_studio.configs[1] = CONFIG.replace('<Label value="box" ', '<Label value="background"/><Label value="box" ')
    strokes = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    strokes[0][24, 26:38] = strokes[1][4, 4:60] = True
    label_studio.annotate(0, [brush(strokes[0], "box"), brush(strokes[1], "background")])
    with site(studio=label_studio.url) as client:
        regions = ask(client, label_studio, [1]).json()["results"][0]["result"]
    assert [region["value"]["brushlabels"] for region in regions] == [["background"], ["box"]]
    assert overlap(mask_of(regions[1]), box(3)) > 0.9
    with site(studio=label_studio.url, unlabelled="background") as client:
        regions = ask(client, label_studio, [1]).json()["results"][0]["result"]
        assert len(regions) < 2, "the box's other pixels taught background"


def test_images_of_a_folder(label_studio, tmp_path):
    label_studio.annotate(0)
    for index in range(4):
        Image.fromarray(picture(3 * index, index)).save(tmp_path / f"photo{index}.png")
    with site(studio=label_studio.url, images=tmp_path) as client:
        (region,) = ask(client, label_studio, [1]).json()["results"][0]["result"]
    assert overlap(mask_of(region), box(3)) > 0.9
    assert not [path for path, _ in label_studio.asked if "/data/" in path]


def test_a_click_marks_an_object(client, label_studio):
    answer = ask(client, label_studio, [1], context={"result": [keypoint(34, 24)]}).json()
    (region,) = answer["results"][0]["result"]
    assert (region["type"], region["value"]["brushlabels"], region["from_name"]) == ("brushlabels", ["box"], "tag")
    assert overlap(mask_of(region), box(3)) > 0.9
    brushed = np.zeros((HEIGHT, WIDTH), bool)
    brushed[20:28, 30:36] = True
    answer = ask(client, label_studio, [1], context={"result": [brush(brushed, "box")]}).json()
    assert overlap(mask_of(answer["results"][0]["result"][0]), box(3)) > 0.9
    marks = [keypoint(34, 24), keypoint(4, 4, positive=False)]
    answer = ask(client, label_studio, [1], context={"result": marks}).json()
    assert overlap(mask_of(answer["results"][0]["result"][0]), box(3)) > 0.9


def test_marks_that_cannot_be_followed(client, label_studio):
    for marks, given in (
        ([keypoint(34, 24, positive=False)], "marks without a positive one"),
        ([keypoint(34, 24, name="cat")], "the label 'cat'"),
        ("text", "context.result='text'"),
        ([{**keypoint(34, 24), "original_width": 99}], "marks on another image"),
        ([{**keypoint(34, 24), "value": {"x": 1, "y": 1, "width": 1}}], "has no name"),
    ):
        error = refusal(ask(client, label_studio, [1], context={"result": marks}))
        assert error.status == 422
        assert given in error.given


def test_nothing_annotated_yet_is_said(client, label_studio):
    error = refusal(ask(client, label_studio, [0]))
    assert (error.status, error.given, error.next) == (
        409, "no annotated image", "annotate at least one image, then ask again",
    )  # fmt: skip
    label_studio.annotate(0, [brush(np.ones((HEIGHT, WIDTH), bool), "box")])
    hook(client)
    error = refusal(ask(client, label_studio, [1]))
    assert (error.status, error.given) == (409, "annotation of box")


@pytest.mark.parametrize(
    ("config", "given"),
    [
        (CONFIG.replace("BrushLabels", "PolygonLabels"), "configuration with KeyPointLabels, PolygonLabels"),
        (CONFIG.replace('toName="img"', 'toName="text"'), "a labelling configuration with no labels"),
        (CONFIG.replace('<Label value="box" background="#ff0000"/>', ""), "BrushLabels without a label"),
        ("<View>", "The labelling configuration is not XML"),
        ("<!DOCTYPE a><View/>", "declares a document type"),
        (None, "label_config=None"),
    ],
)
def test_a_configuration_without_brush_labels(client, label_studio, config, given):
    error = refusal(client.post("/setup", json={"project": PROJECT, "schema": config}))
    assert error.status == 422
    assert given in error.given
    label_studio.configs[1] = config
    label_studio.annotate(0)
    assert given in refusal(ask(client, label_studio, [1])).given


def test_unknown_projects_and_tokens(client, label_studio):
    error = refusal(ask(client, label_studio, [0], project="7.1"))
    assert (error.status, error.given) == (404, "project 7, which Label Studio does not have")
    for wrong in ("../admin", None, [1]):
        assert refusal(ask(client, label_studio, [0], project=wrong)).given.startswith("project=")
    assert refusal(client.post("/setup", json={"schema": CONFIG})).given == "project=None"
    with site(studio=label_studio.url, key="wrong") as other:
        error = refusal(ask(other, label_studio, [0]))
        assert (error.status, error.next) == (502, "see --label-studio-token")
    with site(studio="http://127.0.0.1:9") as other:
        error = refusal(ask(other, label_studio, [0]))
        assert error.status == 502
        assert "no answer from http://127.0.0.1:9" in error.given
    with site() as other:
        assert refusal(ask(other, label_studio, [0])).expected == "a server with --label-studio URL"


def test_a_personal_access_token_is_exchanged(label_studio):
    label_studio.annotate(0)
    with site(studio=label_studio.url, key="a.b.c") as client:
        assert len(ask(client, label_studio, [1]).json()["results"][0]["result"]) == 1
    assert ("/api/token/refresh", {"refresh": "a.b.c"}) in label_studio.asked
    with site(studio=label_studio.url, key="a.b.d") as client:
        assert refusal(ask(client, label_studio, [1])).status == 502


def test_images_that_cannot_be_had(client, label_studio, tmp_path):
    label_studio.annotate(0)
    cases = {
        "http://127.0.0.1:9/a.png": (422, "give the folder of the images, --images FOLDER"),
        "s3://bucket/a.png": (422, "give the folder of the images, --images FOLDER"),
        "//127.0.0.1:9/a.png": (422, "give the folder of the images, --images FOLDER"),
        "/data/upload/1/nothing.png": (404, "see its list"),
        "/data/moved.png": (422, "give its folder, --images FOLDER"),
        "/data/broken.png": (422, "send another"),
        "": (422, "see the task's data"),
    }
    label_studio.images["/data/broken.png"] = b"no picture"
    label_studio.statuses["/data/moved.png"] = 303
    for address, (status, next) in cases.items():
        label_studio.tasks[1]["data"] = {"photo": address}
        error = refusal(ask(client, label_studio, [1]))
        assert (error.status, error.next) == (status, next), address
        assert "dense-ctx-serve" not in error.message, "a path of the server"
    assert not list(client.desk.place.glob("*broken*"))
    label_studio.tasks[1]["data"] = {"photo": "/data/upload/1/../../../../etc/passwd"}
    with site(studio=label_studio.url, images=tmp_path) as other:
        assert ask(other, label_studio, [1]).status_code in (422, 507)


def test_regions_of_another_size_or_class(client, label_studio):
    label_studio.annotate(0, [brush(np.ones((9, 9), bool), "box")])
    response = ask(client, label_studio, [1])
    assert response.status_code == 422
    assert "task 10: The labels of its image are 9 x 9 (H x W); the image is 48 x 64" in refusal(response).message
    damaged = brush(box(), "box")
    damaged["value"]["rle"] = damaged["value"]["rle"][:20]
    label_studio.annotate(0, [damaged])
    hook(client)
    error = refusal(ask(client, label_studio, [1]))
    assert (error.status, error.next) == (422, "annotate it again")
    assert "its rle is cut short" in error.given
    label_studio.annotate(0, [brush(box(), "cat")])
    hook(client)
    assert "There is no class 'cat'" in ask(client, label_studio, [1]).json()["error"]["message"]
    label_studio.annotate(0)
    hook(client)
    assert ask(client, label_studio, [1]).status_code == 200, "nothing half learnt stays"


def test_bodies_that_are_none_of_the_protocol(client, label_studio):
    assert refusal(client.post("/predict", json={"project": PROJECT})).given == "tasks=None"
    assert refusal(client.post("/predict", json={"project": PROJECT, "tasks": []})).given == "tasks=0 items"
    assert refusal(client.post("/predict", json={"project": PROJECT, "tasks": [1]})).status == 422
    assert refusal(client.post("/predict", content=b"{", headers={"content-type": "application/json"})).status == 400
    assert refusal(client.post("/webhook", json={"action": 3})).given == "action=3"
    assert refusal(client.post("/webhook", json=[])).status == 422
    large = {"content-type": "application/json", "content-length": str(300 << 20)}
    assert refusal(client.post("/predict", content=b"x", headers=large)).status == 413
    assert refusal(client.get("/versions")).expected == "a route of docs/tools.md"
    assert hook(client, "TASKS_CREATED", project=99).json() == {"status": "ok"}, "of no interest"


def test_two_webhooks_at_once(client, label_studio, capsys):
    label_studio.annotate(0)
    label_studio.annotate(2)
    threads = [threading.Thread(target=hook, args=(client,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = [ask(client, label_studio, [1]).json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert overlap(mask_of(answers[0]["results"][0]["result"][0]), box(3)) > 0.9
    settle(client)
    assert capsys.readouterr().err == ""


def test_a_webhook_without_annotation_is_a_line_in_the_log(client, capsys):
    assert hook(client, "START_TRAINING").status_code == 200
    settle(client)
    assert "project 1: no annotated image; expected one at least" in capsys.readouterr().err


def test_many_tasks_are_answered_in_time(label_studio, capsys):
    label_studio.annotate(0)
    with site(studio=label_studio.url, seconds=1e-9) as client:
        results = ask(client, label_studio, [1, 2, 3]).json()["results"]
        assert results == [[], [], []], "as many as tasks, or Label Studio drops all"
        assert "3 of 3 tasks have no prediction yet" in capsys.readouterr().err
        client.studio.seconds = 60
        assert all(row["result"] for row in ask(client, label_studio, [1, 2, 3]).json()["results"])


def test_more_than_255_classes(label_studio):
    names = [f"class {number}" for number in range(300)]
    labels = "".join(f'<Label value="{name}"/>' for name in names)
    label_studio.configs[1] = CONFIG.replace('<Label value="box" background="#ff0000"/>', labels, 1)
    label_studio.annotate(0, [brush(box(), "class 270"), brush(~box(), "class 299")])
    with site(studio=label_studio.url, unlabelled="ignore") as client:
        regions = ask(client, label_studio, [1]).json()["results"][0]["result"]
    masks = {region["value"]["brushlabels"][0]: mask_of(region) for region in regions}
    assert set(masks) == {"class 270", "class 299"}
    assert overlap(masks["class 270"], box(3)) > 0.9


def test_examples_are_learnt_once(client, label_studio, monkeypatch):
    images = []
    fit = InContext.partial_fit
    monkeypatch.setattr(
        InContext, "partial_fit", lambda self, image, *rest: images.append(image) or fit(self, image, *rest)
    )
    label_studio.annotate(2)
    ask(client, label_studio, [1])
    label_studio.annotate(0)
    hook(client)
    ask(client, label_studio, [1])
    assert len(images) == 2, "the second alone was new"
    label_studio.annotate(2, [brush(~box(6), "box")])
    hook(client)
    ask(client, label_studio, [1])
    assert len(images) == 4


def test_the_addresses_and_the_token_are_checked_at_the_start(label_studio):
    for url in ("localhost:8080", "ftp://a", "http://user:key@a", "file:///etc"):
        with pytest.raises(InputError, match="is not an address"), site(studio=url):
            pass
    for key in (None, "", "line\nbreak"):
        with pytest.raises(InputError, match="needs a user's token"), site(studio=label_studio.url, key=key):
            pass


def test_only_a_few_projects_are_kept(client, label_studio):
    for number in range(2, 2 + studio.PROJECTS + 3):
        client.studio.project(number)
    assert len(client.studio._projects) == studio.PROJECTS


def trained_head(*names):
    feature_model = AutoDenseModel.from_parts("rgb-xy", "upsample").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = InContext(feature_model, "ridge").fit(picture(), box().astype(np.uint8))
    return Predictor(context, None, dict(enumerate(names)))


def test_a_model_of_its_own_needs_no_annotation(label_studio):
    with site(studio=label_studio.url, head=trained_head("background", "box")) as client:
        (region,) = ask(client, label_studio, [1]).json()["results"][0]["result"]
        assert overlap(mask_of(region), box(3)) > 0.9
    with site(studio=label_studio.url, head=trained_head("background", "cat")) as client:
        error = refusal(ask(client, label_studio, [1]))
        assert error.given == "a model of the class 'cat'"


def test_a_model_of_depth_is_refused():
    feature_model = AutoDenseModel.from_parts("rgb-xy", "upsample").eval()
    metres = np.ones((HEIGHT, WIDTH), np.float32) * 2.5
    head = Predictor(InContext(feature_model, "ridge", "regression").fit(picture(), metres), "depth")
    with pytest.raises(InputError, match="predicts depth; annotation tools take classes"), site(head=head):
        pass


def test_setup_answers_in_time(client, label_studio, monkeypatch):
    label_studio.annotate(0)
    release = threading.Event()
    answer = label_studio.answer
    monkeypatch.setattr(label_studio, "answer", lambda path: release.wait(20) and answer(path))
    monkeypatch.setattr(studio, "SETUP_SECONDS", 0.05)
    body = {"project": PROJECT, "schema": CONFIG}
    assert client.post("/setup", json=body).json() == {"model_version": "dense_ctx"}
    release.set()
    version = ask(client, label_studio, [1]).json()["model_version"]
    assert client.post("/setup", json=body).json() == {"model_version": version}


def test_another_name_of_the_control_is_followed(client, label_studio):
    label_studio.annotate(0)
    ask(client, label_studio, [1])
    label_studio.configs[1] = CONFIG.replace('name="tag"', 'name="mask"')
    hook(client, "PROJECT_UPDATED")
    (region,) = ask(client, label_studio, [1]).json()["results"][0]["result"]
    assert region["from_name"] == "mask"


def test_fetched_pictures_stay_within_a_budget(tmp_path):
    stored = StoredPictures(tmp_path, budget=3 * len(encoded(picture())))
    for number in (0, 1, 0, 2, 3, 4):
        path = stored.get(f"/data/{number}.png", lambda: encoded(picture()), "The image")
        assert path.exists()
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(InputError, match="a picture that can be read"):
        stored.get("/data/9.png", lambda: b"nothing", "The image")
    assert len(list(tmp_path.iterdir())) == 3


def test_the_version_follows_the_model(label_studio):
    label_studio.annotate(0)
    versions = []
    other = trained_head("background", "box")
    other.context.partial_fit(picture(9), box(0).astype(np.uint8))
    heads = (None, None, None, trained_head("background", "box"), other)
    for head, method in zip(heads, ("ridge", "ridge", "knn", "ridge", "ridge"), strict=True):
        with site(studio=label_studio.url, head=head, method=method) as client:
            answer = ask(client, label_studio, [1]).json()
            assert answer["results"][0]["model_version"] == answer["model_version"]
            versions.append(answer["model_version"])
    assert versions[0] == versions[1]
    assert len(set(versions)) == 4


def test_another_image_of_an_annotated_task_is_learnt(client, label_studio):
    label_studio.annotate(0)
    before = ask(client, label_studio, [1]).json()["model_version"]
    label_studio.images["/data/new.png"] = encoded(picture(9, 9))
    label_studio.tasks[0]["data"] = {"photo": "/data/new.png"}
    hook(client)
    settle(client)
    assert ask(client, label_studio, [1]).json()["model_version"] != before


def test_a_task_s_other_image_teaches_nothing(client, label_studio):
    label_studio.annotate(0)
    alone = mask_of(ask(client, label_studio, [1]).json()["results"][0]["result"][0])
    label_studio.configs[1] = CONFIG.replace(
        "</View>",
        '<Image name="img2" value="$other"/><BrushLabels name="tag2" toName="img2"><Label value="box"/></BrushLabels>'
        "</View>",
    )
    beside = brush(~box(0), "box", to_name="img2", from_name="tag2")
    label_studio.annotate(0, [brush(box(0), "box"), beside])
    label_studio.annotate(2, [beside])
    hook(client)
    settle(client)
    both = ask(client, label_studio, [1]).json()["results"][0]["result"]
    np.testing.assert_array_equal(mask_of(both[0]), alone)
    marks = {"result": [{**keypoint(30, 20), "to_name": "img2"}]}
    assert refusal(ask(client, label_studio, [1], context=marks)).given == "marks on the image 'img2'"


def test_one_file_for_two_addresses_is_refused(label_studio, tmp_path):
    Image.fromarray(picture()).save(tmp_path / "1.png")
    label_studio.tasks[0]["data"] = {"photo": "s3://bucket/one/1.png"}
    label_studio.tasks[1]["data"] = {"photo": "s3://bucket/two/1.png"}
    label_studio.annotate(0)
    with site(studio=label_studio.url, images=tmp_path) as client:
        assert ask(client, label_studio, [0]).status_code == 200
        error = refusal(ask(client, label_studio, [1]))
        assert error.given == "images at s3://bucket/one/1.png and s3://bucket/two/1.png, and one file 1.png for both"
        label_studio.tasks[1]["data"] = {"photo": "s3://bucket/one/1.png?signed=2"}
        assert ask(client, label_studio, [1]).status_code == 200
