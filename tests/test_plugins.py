"""A broken plugin never takes the host, or another plugin, with it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from plugin_sandbox import AT_LOAD, AT_USE, bad, distribution, good, hook, lazy_bad

from dense_ctx import Features
from dense_ctx import plugins as plugin_module
from dense_ctx.errors import MissingDependencyError, PluginError, PluginWarning, UnknownNameError
from dense_ctx.plugins import load_plugins
from dense_ctx.registry import Registry


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed distributions, the good one among them; its modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("DENSE_CTX_SKIP_PLUGINS", raising=False)
    monkeypatch.delenv("DENSE_CTX_STRICT_PLUGINS", raising=False)
    monkeypatch.setattr(plugin_module, "_registry", None)
    before = set(sys.modules)
    good(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("bad_", "good_")):
            del sys.modules[name]


def recorded(call):
    """The result of `call`, and the PluginWarnings about third parties."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    about_us = re.compile(r"dense_ctx skipped plugin '\w+' of dense-ctx ")
    ours = [w for w in caught if issubclass(w.category, PluginWarning) and not about_us.match(str(w.message))]
    return result, ours


def assert_good_works(registry: Registry):
    decoder = registry.create("decoder", "good-mean", dims=(4,), strides=(8,))
    features = Features((torch.ones(2, 4, 3, 5),), None, (24, 40))
    assert decoder(features, torch.zeros(2, 3, 24, 40), (7, 9)).shape == (2, 1, 7, 9)


def assert_skipped_whole(registry: Registry, case: str, cause: str, caught) -> None:
    assert len(caught) == 1, [str(w.message) for w in caught]
    message = str(caught[0].message)
    assert f"plugin {case!r} of bad-{case} 3.2: " in message
    assert cause in message
    assert not [e for e in registry.entries() if e.owner.plugin == case]
    third = {owner.plugin: why for owner, why in registry.failures.items() if owner.distribution != "dense-ctx"}
    assert list(third) == [case]
    assert cause in third[case]


def built_ins(registry: Registry) -> set[tuple[str, str]]:
    return {(e.kind, e.name) for e in registry.entries() if e.owner.distribution == "dense-ctx"}


@pytest.mark.parametrize("case", AT_LOAD)
def test_broken_when_loaded(site, case):
    init, cause = AT_LOAD[case]
    bad(site, case, init)
    registry, caught = recorded(plugin_module.registry)
    assert_skipped_whole(registry, case, cause, caught)
    assert caught[0].filename == __file__, "the warning points at who asked for the registry"
    assert_good_works(registry)
    assert ("decoder", "upsample") in built_ins(registry)
    assert registry.get("decoder", "upsample")[0].owner.distribution == "dense-ctx"


@pytest.mark.parametrize("case", AT_USE)
def test_broken_when_used(site, case):
    module, cause = AT_USE[case]
    lazy_bad(site, case, module)
    registry, caught = recorded(load_plugins)
    assert not caught
    assert {case, f"{case}-other"} < set(registry.names("decoder"))

    def use():
        with pytest.raises(PluginError, match="cannot be used") as error:
            registry.create("decoder", case, dims=(4,), strides=(8,))
        for word in (case, f"bad-{case} 3.2", cause):
            assert word in str(error.value)
        with pytest.raises(UnknownNameError, match="Skipped plugins"):  # and no second warning
            registry.create("decoder", case, dims=(4,), strides=(8,))

    _, caught = recorded(use)
    assert_skipped_whole(registry, case, cause, caught)
    assert_good_works(registry)


def test_a_factory_that_gives_something_else_keeps_the_plugin(site):
    """It may be these arguments alone: one cell of a benchmark must not take the plugin from the others."""
    lazy_bad(site, "wrong-product", "def Part(dims, strides):\n    return 3\nOther = Part\n")
    registry, _ = recorded(load_plugins)
    for _ in range(2):
        with pytest.raises(PluginError, match=r"3.2 gave a int, not a dense_ctx\.interfaces\.decoder\.Decoder"):
            registry.create("decoder", "wrong-product", dims=(4,), strides=(8,))
    assert not registry.failures


def test_optional_dependency_keeps_the_plugin(site):
    init = hook('"needy", "bad_extra.part:Part", extra="more"', '"plain", "good_parts.decoder:Mean"')
    bad(site, "extra", init, {"part.py": "import a_package_nobody_has\n"})
    registry, caught = recorded(load_plugins)
    with pytest.raises(MissingDependencyError, match=r'pip install "bad-extra\[more\]"'):
        registry.create("decoder", "needy", dims=(4,), strides=(8,))
    assert not caught
    assert {"needy", "plain"} < set(registry.names("decoder"))


def test_two_distributions_with_one_entry_point_name(site):
    for name in ("one", "two"):
        files = {f"bad_{name}/__init__.py": hook(f'"from-{name}", "good_parts.decoder:Mean"')}
        distribution(site, f"bad-{name}", files, {"shared": f"bad_{name}"})
    registry, caught = recorded(load_plugins)
    assert len(caught) == 1
    assert "plugin 'shared' of bad-two 3.2: the entry-point name 'shared' already belongs to" in str(caught[0].message)
    assert "plugin 'shared' of bad-one 3.2" in str(caught[0].message)
    assert "from-one" in registry.names("decoder")
    assert "from-two" not in registry.names("decoder")
    assert_good_works(registry)


def test_one_module_under_two_distributions_keeps_the_first(site):
    distribution(site, "bad-copy", {}, {"copy": "good_parts"})
    registry, caught = recorded(load_plugins)
    assert len(caught) == 1
    assert "plugin 'copy' of bad-copy 3.2" in str(caught[0].message) or "plugin 'good'" in str(caught[0].message)
    assert registry.names("decoder").count("good-mean") == 1
    assert_good_works(registry)


@pytest.fixture
def interruptible():
    """SIGINT as in a terminal: what is started in the background of a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("where", ["import", "hook", "target"])
def test_an_interrupt_of_the_users_passes_through(site, where, interruptible):
    send = "import signal\nsignal.raise_signal(signal.SIGINT)\n"
    if where == "target":
        lazy_bad(site, "interrupt", send)
        registry, _ = recorded(load_plugins)
        with pytest.raises(KeyboardInterrupt):
            registry.create("decoder", "interrupt")
        assert "interrupt" in registry.names("decoder")
        return
    bad(site, "interrupt", send if where == "import" else hook() + "    " + send.replace("\ns", "; s"))
    with pytest.raises(KeyboardInterrupt):
        recorded(plugin_module.registry)
    (site / "bad_interrupt" / "__init__.py").write_text(hook() + "#\n" * 9, encoding="utf-8")
    sys.modules.pop("bad_interrupt", None)
    registry, caught = recorded(plugin_module.registry)  # and the next call starts afresh
    assert not caught
    assert_good_works(registry)


def test_what_a_plugin_changes_of_the_process_is_put_back(site):
    bad(site, "elsewhere", "import os, warnings\nos.chdir('/')\nwarnings.simplefilter('error')\n" + hook())
    handler, folder = signal.getsignal(signal.SIGINT), Path.cwd()
    _, caught = recorded(load_plugins)
    assert not caught
    assert Path.cwd() == folder
    assert signal.getsignal(signal.SIGINT) is handler
    with warnings.catch_warnings(record=True) as later:
        bad(site, "again", "import warnings\nwarnings.simplefilter('error')\n" + hook())
        load_plugins()
        warnings.warn("of somebody else", stacklevel=1)
    assert "of somebody else" in [str(one.message) for one in later]


def test_every_warning_as_an_error_leaves_the_others(site):
    """python -W error is about the user's code; a filter for PluginWarning alone is about plugins."""
    bad(site, "half-way", AT_LOAD["half-way"][0])
    code = "import dense_ctx; print('good-mean' in dense_ctx.registry().names('decoder'))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment(site), capture_output=True, text=True
    )
    assert done.stdout == "True\n", done.stderr
    assert done.stderr.count("warning: dense_ctx skipped plugin 'half-way'") == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", PluginWarning)
        with pytest.raises(PluginError, match="half-way"):
            load_plugins()


@pytest.mark.parametrize(
    "text", ["no equals sign\n", "[dense_ctx]\nno equals sign\n", "[dense_ctx]\nodd = = =\n", b"\xff\xfe"]
)
def test_a_strangers_malformed_entry_points(site, text):
    distribution(site, "odd-one", {}, {})
    data = text if isinstance(text, bytes) else text.encode()
    (site / "odd_one-3.2.dist-info" / "entry_points.txt").write_bytes(data)
    registry, caught = recorded(load_plugins)
    assert_good_works(registry)
    if text == "no equals sign\n":  # of no business of ours
        assert not caught
    else:
        assert len(caught) == 1
        assert "odd-one 3.2" in str(caught[0].message)


def test_a_stranger_with_the_name_of_this_library(site):
    distribution(
        site, "dense-ctx", {"bad_own/__init__.py": hook('"own", "good_parts.decoder:Mean"')}, {"own": "bad_own"}
    )
    registry, caught = recorded(load_plugins)
    assert len(caught) == 1
    assert "has the name of this library" in str(caught[0].message)
    assert "own" not in registry.names("decoder")
    assert ("decoder", "upsample") in built_ins(registry)
    assert_good_works(registry)


def test_long_names_are_cut_in_messages(site):
    long = "n" * 100_000
    distribution(site, "bad-point", {"bad_point/__init__.py": hook()}, {long: "bad_point"})
    distribution(site, "d" * 90, {"bad_dist/__init__.py": "raise ValueError\n"}, {"dist": "bad_dist"}, version="9" * 90)
    registry, caught = recorded(load_plugins)
    messages = [str(one.message) for one in caught]
    assert len(messages) == 2
    assert max(map(len, messages)) < 1000
    with pytest.raises(UnknownNameError) as error:
        registry.get("decoder", long)
    assert len(str(error.value)) < 2000


def test_skip_by_name_and_all(site, monkeypatch):
    bad(site, "system-exit", AT_LOAD["system-exit"][0])
    monkeypatch.setenv("DENSE_CTX_SKIP_PLUGINS", " system-exit , nobody")
    registry, caught = recorded(load_plugins)
    assert not caught
    assert [str(owner) for owner in registry.skipped] == ["plugin 'system-exit' of bad-system-exit 3.2"]
    assert_good_works(registry)
    monkeypatch.setenv("DENSE_CTX_SKIP_PLUGINS", "all")
    registry, caught = recorded(load_plugins)
    assert not caught
    assert "good-mean" not in registry.names("decoder")
    assert ("decoder", "upsample") in built_ins(registry)


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_strict_raises(site, monkeypatch, by):
    bad(site, "half-way", AT_LOAD["half-way"][0])
    if by == "variable":
        monkeypatch.setenv("DENSE_CTX_STRICT_PLUGINS", "1")
    strict = True if by == "argument" else None
    with pytest.raises(PluginError, match=r"plugin 'half-way' of bad-half-way 3\.2 failed: RuntimeError: half-way"):
        load_plugins(strict=strict)
    monkeypatch.setenv("DENSE_CTX_STRICT_PLUGINS", "0")
    _, caught = recorded(load_plugins)
    assert len(caught) == 1


def test_stale_egg_info_does_not_list_a_plugin_twice(site, tmp_path_factory, monkeypatch):
    distribution(site, "able-parts", {}, {"good": "good_parts"}, version="1.2", egg=True)
    elsewhere = tmp_path_factory.mktemp("old")
    points = {"good": "good_parts", "a-removed-one": "good_parts_of_long_ago"}
    distribution(elsewhere, "able_parts", {}, points, version="0.1", egg=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(elsewhere)])
    registry, caught = recorded(load_plugins)
    assert not caught
    assert registry.names("decoder").count("good-mean") == 1
    assert registry.get("decoder", "good-mean")[0].owner.version == "1.2"


def test_unreadable_metadata_is_not_a_reason_to_stop(site):
    good_init = hook('"anonymous", "good_parts.decoder:Mean"')
    distribution(site, "bad-metadata", {"bad_metadata/__init__.py": good_init}, {"anonymous": "bad_metadata"})
    (site / "bad_metadata-3.2.dist-info" / "METADATA").unlink()
    registry, caught = recorded(load_plugins)
    assert not caught
    assert "anonymous" in registry.names("decoder")


def test_register_kept_for_later_is_refused(site):
    bad(site, "later", hook().replace("    pass", "    global kept\n    kept = register"))
    registry, _ = recorded(load_plugins)
    with pytest.raises(PluginError, match="only while dense_ctx loads the plugin"):
        sys.modules["bad_later"].kept("decoder", "late", "good_parts.decoder:Mean")
    assert "late" not in registry.names("decoder")


def test_threads_share_one_registry(site):
    registries = []
    threads = [threading.Thread(target=lambda: registries.append(plugin_module.registry())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(registries) == 8
    assert len({id(registry) for registry in registries}) == 1


@pytest.mark.slow
def test_every_broken_plugin_at_once_in_a_real_installation(tmp_path):
    """pip installs the good one and a broken one; the others lie beside; one process lists and uses them."""
    sources = tmp_path / "sources"
    for name, init in (("able-parts", None), ("bad-system-exit", AT_LOAD["system-exit"][0])):
        root = sources / name
        package = "good_parts" if init is None else name.replace("-", "_")
        good(root) if init is None else bad(root, "system-exit", init)
        for leftover in root.glob("*.dist-info"):
            for file in leftover.iterdir():
                file.unlink()
            leftover.rmdir()
        point = "good" if init is None else "system-exit"
        (root / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
            f'[project]\nname = "{name}"\nversion = "{"1.2" if init is None else "3.2"}"\n'
            f'[project.entry-points.dense_ctx]\n{point} = "{package}"\n'
            f'[tool.hatch.build.targets.wheel]\npackages = ["{package}"]\n',
            encoding="utf-8",
        )
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run(
        [*pip, "--disable-pip-version-check", "--target", str(site), *map(str, sorted(sources.iterdir()))],
        check=True,
    )
    for case, (init, _) in AT_LOAD.items():
        if case != "system-exit":
            bad(site, case, init)
    for case, (module, _) in AT_USE.items():
        lazy_bad(site, case, module)
    broken = {*AT_LOAD, *AT_USE}
    done = command(site, "plugins", "--json", "--check")
    assert done.returncode == 1, done.stderr
    listed = json.loads(done.stdout)
    assert {f["plugin"] for f in listed["failures"]} - built_in_plugins(listed) == broken
    assert "good-mean" in {e["name"] for e in listed["entries"]}
    assert "Traceback" not in done.stderr
    code = (
        "import dense_ctx; r = dense_ctx.registry();"
        "print(r.create('decoder', 'good-mean', dims=(4,), strides=(8,)).dim)"
    )
    used = subprocess.run([sys.executable, "-c", code], env=environment(site), capture_output=True, text=True)
    assert used.stdout == "1\n", used.stderr
    for case in AT_LOAD:
        assert used.stderr.count(f"skipped plugin {case!r}") == 1, used.stderr


def built_in_plugins(listed) -> set[str]:
    return {f["plugin"] for f in listed["failures"] if f["distribution"] == "dense-ctx"}


def environment(site: Path) -> dict[str, str]:
    hidden = ("DENSE_CTX_SKIP_PLUGINS", "DENSE_CTX_STRICT_PLUGINS")
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return {**{k: v for k, v in os.environ.items() if k not in hidden}, "PYTHONPATH": path}


def command(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dense_ctx.cli", *arguments],
        env=environment(site),
        capture_output=True,
        text=True,
    )
