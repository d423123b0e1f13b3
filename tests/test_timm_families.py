"""Any timm network: runs at any size, or is refused at another than its own, by name, and resizes where it is asked."""

import pytest
import timm
import torch

from dense_ctx import AutoDenseModel, create_backbone
from dense_ctx.errors import InputError

VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2}
STAGES = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2)}
ANY = {  # name: what makes it small
    "deit3_small_patch16_224": VIT,
    "eva02_tiny_patch14_224": {"depth": 2, "embed_dim": 48, "num_heads": 2},
    "flexivit_small": VIT,
    "swin_tiny_patch4_window7_224": STAGES,
    "swinv2_tiny_window8_256": STAGES,
    "swinv2_cr_tiny_224": STAGES,
    "convnextv2_atto": {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)},
    "mobilenetv3_small_050": {}, "resnet10t": {}, "tiny_vit_5m_224": {}, "pvt_v2_b0": {}, "edgenext_xx_small": {},
    "poolformer_s12": {}, "davit_tiny": {},
}  # fmt: skip
OWN = {  # takes no size but its own
    "beit_base_patch16_224": VIT,
    "beitv2_base_patch16_224": VIT,
    "cait_xxs24_224": VIT,
    "xcit_nano_12_p16_224": {},
    "maxvit_rmlp_pico_rw_256": {},
    "coatnet_pico_rw_224": {},
    "mixer_s16_224": {},
    "gmlp_ti16_224": {},
    "resmlp_12_224": {},
    "vit_relpos_small_patch16_224": VIT,
    "hiera_tiny_224": {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)},
    "levit_128s": {}, "pit_ti_224": {}, "gcvit_xxtiny": {}, "efficientformerv2_s0": {}, "visformer_tiny": {},
}  # fmt: skip
WIDE = {"crossvit_9_240": {}, "mobilevitv2_050": {}, "volo_d1_224": {}, "nest_tiny": {}, "coat_tiny": {},
        "efficientformer_l1": {}, "vitamin_small_224": {}, "inception_v4": {},
        "tnt_s_legacy_patch16_224": {}}  # fmt: skip


def build(name, small, **options):
    torch.manual_seed(0)
    return create_backbone(f"timm:{name}", weights=None, **small, **options)


def grids(backbone, height, width):
    return [(dim, height // step, width // step) for dim, step in zip(backbone.dims, backbone.strides, strict=True)]


def run(backbone, height, width):
    with torch.inference_mode():
        features = backbone(torch.randn(2, 3, height, width))
    assert features.cls.shape[0] == 2
    return [tuple(m.shape[1:]) for m in features.maps]


@pytest.mark.parametrize("name", list(ANY))
def test_any_size(name):
    backbone = build(name, ANY[name])
    for rows, columns in ((2, 3), (3, 7)):
        size = rows * backbone.stride, columns * backbone.stride
        assert run(backbone, *size) == grids(backbone, *size)


def check_own(name, small):
    if not hasattr(timm.create_model(name), "forward_intermediates"):  # visformer, in timm 1.0.28
        with pytest.raises(InputError, match=f"timm's {name} gives no intermediate maps"):
            build(name, small)
        return
    backbone = build(name, small)
    height, width = backbone.image_size
    other = (2 * backbone.stride, 3 * backbone.stride)
    try:
        shapes = run(backbone, *other)
    except InputError as error:
        text = str(error)
        assert name in text
        assert f"{other[0]} x {other[1]} pixels" in text
        assert f"It was made for {height} x {width}: add resize=true" in text
    else:
        assert shapes == grids(backbone, *other)
    resizing = build(name, small, resize=True)
    resizing.load_state_dict(backbone.state_dict())
    assert run(resizing, *other) == grids(backbone, *other)
    assert run(resizing, height, width) == grids(backbone, height, width)


@pytest.mark.parametrize("name", list(OWN))
def test_its_own_size_or_a_refusal_that_names_it(name):
    check_own(name, OWN[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(WIDE))
def test_its_own_size_or_a_refusal_that_names_it_of_larger_ones(name):
    check_own(name, WIDE[name])


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "cait_xxs24_224", "mixer_s16_224"])
def test_a_fixed_network_is_refused_and_resizes_where_it_is_asked(name):
    small = OWN[name]
    fixed, resizing = build(name, small), build(name, small, resize=True)
    resizing.load_state_dict(fixed.state_dict())
    own, large = torch.randn(1, 3, 224, 224), torch.randn(1, 3, 320, 448)
    functional = torch.nn.functional
    with torch.inference_mode():
        with pytest.raises(InputError, match="does not run on 320 x 448 pixels"):
            fixed(large)
        assert torch.equal(fixed(own).maps[-1], resizing(own).maps[-1])  # at its own size the option changes nothing
        there = fixed(functional.interpolate(large, (224, 224), mode="bilinear", antialias=True))
        back = resizing(large)
        assert torch.equal(back.maps[-1], functional.interpolate(there.maps[-1], (20, 28), mode="bilinear"))
    assert back.maps[-1].shape[-2:] == (20, 28)


def test_swin_at_its_own_size_is_timms():
    loose = build("swin_tiny_patch4_window7_224", STAGES)
    strict = build("swin_tiny_patch4_window7_224", STAGES, strict_img_size=True)
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        for a, b in zip(loose(image).maps, strict(image).maps, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        with pytest.raises(InputError, match="does not run on 64 x 64 pixels"):
            strict(torch.randn(1, 3, 64, 64))


def test_a_model_says_it_of_its_images():
    model = AutoDenseModel.from_parts("timm:beit_base_patch16_224", backbone_args={"weights": None, **VIT})
    with pytest.raises(InputError, match="224 x 224"):
        model(torch.rand(1, 3, 100, 60))
