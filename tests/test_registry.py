import re

import pytest

import dense_ctx
from dense_ctx.errors import InputError, PluginError, UnknownNameError
from dense_ctx.kinds import Entry, Kind, Owner
from dense_ctx.registry import Registry

OWNER = Owner("mine", "my-parts", "1.0")


def made(*names, kind="decoder", target="collections:OrderedDict", **more):
    registry = Registry()
    registry.commit({}, {"thing": Kind("thing", "builtins:object")})
    for name in names:
        entry = Entry(kind, name, target, OWNER, **more)
        registry.check(entry, {})
        registry.commit({(kind, name): entry})
    return registry


def test_the_three_closest_names():
    registry = made("dinov2-s14", "dinov2-b14", "dinov2-l14", "clip-b16", "upsample")
    with pytest.raises(UnknownNameError) as error:
        registry.get("decoder", "dinov2-b41")
    closest = re.search(r"Closest: (.*?)\.", str(error.value))[1].split(", ")
    assert len(closest) == 3
    assert closest[0] == "dinov2-b14"
    assert all(name.startswith("dinov2") for name in closest)
    assert isinstance(error.value, KeyError)
    with pytest.raises(UnknownNameError, match="Known: none"):
        registry.get("probe", "linear")


def test_family_names_carry_their_argument():
    registry = made("timm:", kind="backbone")
    entry, positional = registry.get("backbone", "timm:vit_small:x")
    assert (entry.name, positional) == ("timm:", ("vit_small:x",))
    for bare in ("timm:", "timm"):
        with pytest.raises(UnknownNameError):
            registry.get("backbone", bare)


def test_arguments_below_the_users_own():
    registry = made("dict", kind="thing", target="builtins:dict", args={"a": 1, "b": 2})
    assert registry.create("thing", "dict", b=3) == {"a": 1, "b": 3}


def test_wrong_argument_names_part_and_target():
    registry = made("fraction", kind="thing", target="fractions:Fraction.from_float")
    with pytest.raises(InputError, match=r"thing 'fraction' \(fractions:Fraction.from_float\) does not take"):
        registry.create("thing", "fraction", depth=3)
    assert registry.names("thing") == ["fraction"]  # the user's mistake is not the plugin's


def test_a_name_must_be_a_string():
    with pytest.raises(InputError, match="asked for by name"):
        made("a").get("decoder", 3)


@pytest.mark.parametrize("target", ["hub:own/repo", "hub:own/repo@v1.0", "collections:abc"])
def test_model_targets(target):
    assert made("m", kind="model", target=target).names("model") == ["m"]


@pytest.mark.parametrize("target", ["hub:repo", "hub:a/b/c", "https://x/y", "", 3, "nowhere_at_all:folder"])
def test_model_targets_refused(target):
    with pytest.raises(PluginError):
        made("m", kind="model", target=target)


def test_entries_in_order():
    registry = made("b", "a")
    registry.commit({("backbone", "z"): Entry("backbone", "z", "x:y", OWNER)})
    assert [e.name for e in registry.entries()] == ["z", "a", "b"]


def test_the_function_is_not_hidden_by_its_module():
    import dense_ctx.registry as imported_later  # noqa: F401

    assert callable(dense_ctx.registry)
    assert dense_ctx.registry() is dense_ctx.registry()


def test_a_wrong_value_is_the_users_and_named():
    registry = made("fraction", kind="thing", target="fractions:Fraction")
    with pytest.raises(InputError, match=r"thing 'fraction' .* does not take {'numerator': 'abc'}: ValueError"):
        registry.create("thing", "fraction", numerator="abc")


@pytest.mark.parametrize(
    ("kind", "name", "args", "message"),
    [
        ("objective", "lila", {"sigma": "abc"}, "sigma is 'abc'; expected a number"),
        ("objective", "lila", {"start": 1.5}, "start is 1.5; expected a whole number"),
        ("objective", "lila", {"cues": "features"}, "cues is 'features'; expected a list, each text"),
        ("objective", "lila", {"cues": ["features", 3]}, r"cues\[1\] is 3; expected text"),
        ("objective", "lila", {"context": "slow"}, "context is 'slow'; expected one of shared, detached, ema"),
        ("objective", "dip", {"direct": "yes"}, "direct is 'yes'; expected true or false"),
        ("objective", "dip", {"train": 3}, "train is 3; expected one of blocks, adapters, decoder"),
        ("objective", "maxa-depth", {"pixels": "all"}, "pixels is 'all'; expected a whole number"),
        ("objective", "maxa-depth", {"size": [224]}, r"size is \[224\]; expected a list of 2, each a whole number"),
        (
            "decoder",
            "maxa",
            {"dims": (4,), "strides": (8,), "width": "wide"},
            "width is 'wide'; expected a whole number",
        ),
        ("probe", "conv", {"lr": "1e-3x"}, "lr is '1e-3x'; expected a number"),
        ("probe", "ridge", {"penalty": "much"}, "penalty is 'much'; expected"),
    ],
)
def test_an_argument_of_another_type_is_named(kind, name, args, message):
    """sigma=abc was a TypeError of a comparison; cues=features was read letter by letter."""
    with pytest.raises(InputError, match=f"^{kind} '{name}': {message}$" if message[-8:] != "expected" else message):
        dense_ctx.registry().create(kind, name, **args)
