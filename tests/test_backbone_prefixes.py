"""Networks within files that hold more: wrappers of training scripts are recognised, `prefix` says the rest."""

import re

import pytest
import torch
from test_backbone_tensors import own, randomised, vit

from dense_ctx.errors import InputError, WeightsError


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}, "epoch": 3,
                       "optimizer_states": [{"state": {0: torch.zeros(1)}}]},
        lambda state: {f"_orig_mod.net.{key}": value for key, value in state.items()},
        lambda state: {"teacher": {f"backbone.{key}": value for key, value in state.items()},
                       "student": {f"module.backbone.{key}": value + 1 for key, value in state.items()}},
        lambda state: {"model": {f"teacher.backbone.{key}": value for key, value in state.items()} | {
            f"student.backbone.{key}": value + 1 for key, value in state.items()} | {"dino_loss.center": torch.ones(1)}
            },
        lambda state: {f"encoder.{key}": value for key, value in state.items()} | {"decoder.norm.bias": torch.ones(3)},
    ],
)  # fmt: skip
def test_what_training_scripts_wrap_around_a_network_is_recognised(tmp_path, wrap):
    source = randomised(vit("dino-s16", img_size=64))
    torch.save(wrap(own(source)), tmp_path / "w.pth")
    loaded = vit("dino-s16", img_size=64, weights=tmp_path / "w.pth").net.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in source.net.state_dict().items())


WRAPPERS = ["student", "teacher", "model_ema", "ema", "ema_model", "encoder_q", "encoder_k", "momentum_encoder", "net",
            "base_encoder", "target_encoder", "online_encoder", "state_dict", "model_state_dict", "network", "module",
            "model", "backbone", "encoder", "visual", "trunk", "vision_model", "image_encoder", "vit"]  # fmt: skip
FORMS = {
    "a mapping": lambda name, state: {name: state},
    "a mapping beside numbers": lambda name, state: {name: state, "epoch": 3},
    "dotted": lambda name, state: {f"{name}.{key}": value for key, value in state.items()},
    "dotted, beside a queue": lambda name, state: (
        {f"{name}.{key}": value for key, value in state.items()} | {"queue": torch.ones(2)}
    ),
    "dotted, in a data-parallel network": lambda name, state: {
        f"module.{name}.{key}": value for key, value in state.items()
    },
    "Lightning's": lambda name, state: {"state_dict": {f"{name}.{key}": value for key, value in state.items()}},
    "twice": lambda name, state: {name: {f"module.inner.{key}": value for key, value in state.items()}},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WRAPPERS)
def test_whatever_stands_before_the_names_is_recognised_or_the_hint_that_is_given_opens_the_file(name, form, tmp_path):
    source = randomised(vit("dino-s16", depth=1, embed_dim=12, num_heads=2, img_size=32))
    path = tmp_path / "w.pth"
    torch.save(FORMS[form](name, own(source)), path)
    prefix, message = None, ""
    for _ in range(3):  # a hint is one that works, or leads one further where a name stands twice
        try:
            loaded = vit("dino-s16", depth=1, embed_dim=12, num_heads=2, img_size=32, weights=path, prefix=prefix)
            break
        except WeightsError as error:
            message = str(error)
        prefix = re.search(r"stand behind .*: give prefix=(\S+)$", message)[1]
    else:
        pytest.fail(message)
    assert all(torch.equal(loaded.net.state_dict()[key], value) for key, value in source.net.state_dict().items())


def test_a_prefix_says_which_of_several_networks(tmp_path):
    source = randomised(vit("dino-s16", img_size=64))
    state = own(source)
    both = {"visual": {f"trunk.{key}": value for key, value in state.items()},
            "other": {f"trunk.{key}": value + 1 for key, value in state.items()}}  # fmt: skip
    path = tmp_path / "w.pth"
    torch.save(both, path)
    with pytest.raises(WeightsError, match=r"no tensors at its top level; its keys are \['other', 'visual'\]"):
        vit("dino-s16", img_size=64, weights=path)
    with pytest.raises(WeightsError, match=r"behind other\.trunk\., visual\.trunk\.: give prefix=other\.trunk\.$"):
        vit("dino-s16", img_size=64, weights=path)
    loaded = vit("dino-s16", img_size=64, weights=path, prefix="visual.trunk.").net.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    other = vit("dino-s16", img_size=64, weights=path, prefix="other.trunk.").net.state_dict()
    assert torch.equal(other["norm.bias"], state["norm.bias"] + 1)
    with pytest.raises(WeightsError, match=r"has no tensor vizual\.\*: its tensors begin with visual\.trunk\.cls"):
        vit("dino-s16", img_size=64, weights=path, prefix="vizual.")
    torch.save({"model": state, "model_ema": state}, path)
    with pytest.raises(WeightsError, match=r"as model and as model_ema.*prefix=model\. or prefix=model_ema\."):
        vit("dino-s16", img_size=64, weights=path)
    torch.save({f"my.{key}": value for key, value in state.items()}, path)
    with pytest.raises(WeightsError, match=r"behind my\.: give prefix=my\."):
        vit("dino-s16", img_size=64, weights=path)
    with pytest.raises(InputError, match="give weights=PATH with it"):
        vit("dino-s16", prefix="a.")
