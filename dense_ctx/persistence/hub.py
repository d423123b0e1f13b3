"""Models by name: folders, short names, Hub repositories."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import FileError, InputError, UnknownNameError, WeightsError, refuse_idle
from ..plugins import registry
from .artefact import MANIFEST, present
from .checkpoint import CARD, CONFIG, WEIGHTS, read
from .links import may_fetch, may_read_paths, opening
from .transfer import persevere

if TYPE_CHECKING:
    from ..model import DenseModel


@dataclass(frozen=True)
class Access:
    """How a Hub repository is read; the fields are arguments of `load`."""

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    token: str | bool | None = None


def load(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    allow: Sequence[str] = (),
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> DenseModel:
    """Open a model by folder, registered short name, or Hub repository ("owner/name"), in that order; in eval mode.

    Args:
        revision: branch, tag or commit of a Hub repository.
        cache_dir: in place of the Hub's own cache.
        local_files_only: open no connection.
        token: for private repositories; default that of `hf auth login`.
        allow: Hub repositories that its configuration may name and that may be fetched from. Without
            it, only `name` and the sources of registered parts are; what an untrusted file names is read from the cache
            or refused.
        device, dtype: where and in what precision to put the model.

    Raises:
        UnknownNameError: none of the three; the closest short names are listed.
        WeightsError: the Hub, or the backbone's own source, does not provide the files.
        FileError: files are missing, or a model that this one is built on.
        ConfigError: config.json has unknown keys or a newer format; a revision of a folder or a packaged model.
        CheckpointError: damaged files; tensors missing, left over, or of another shape or kind; a model that this one
            is built on has changed, or is this one.
    """
    folder = locate(name, Access(revision, cache_dir, local_files_only, token))
    if isinstance(allow, str):
        raise InputError(f"allow={allow!r} is one text; expected a list of Hub repositories")
    model = read(folder, published=local_folder(name) is None, allow=allow)
    return model.to(device=device, dtype=dtype).eval()


def push(
    save: Callable[..., object],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    commit_message: str = "Upload a dense_ctx model",
    **options: Any,
) -> str:
    """Save to a temporary folder and upload it in one commit; errors as `DenseModel.push_to_hub`.

    Args:
        save: writes what is published: called with a folder and `options`.
        private: whether a new repository is; None: the account's default.
        token: that may write; default the one logged in with.
        branch: to commit to; default the repository's own.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=token, library_name="dense_ctx")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / repo_id.rpartition("/")[2]
        save(folder, **options)
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            own_card = [CARD] if api.file_exists(repo_id, CARD, revision=branch) else []
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=branch,
                commit_message=commit_message,
                ignore_patterns=own_card,
            )
        except (HfHubHTTPError, OSError) as error:
            raise WeightsError(
                f"Could not publish to {repo_id}: {error}. `hf auth login` or HF_TOKEN gives a token that may write"
            ) from error
    return str(commit.commit_url)


def local_folder(name: str | os.PathLike[str]) -> Path | None:
    """The folder of this path, relative to the working directory or to the folder of the model being opened."""
    outer = opening()
    if not may_read_paths() or len(os.fspath(name)) > 1000 or "\0" in os.fspath(name):
        return None
    for folder in (Path(name), *([] if outer is None else [outer / name])):
        if present(folder):  # False for what no file system can name
            return folder
    return None


def locate(
    name: str | os.PathLike[str], access: Access = Access(), files: Sequence[str] = (CONFIG, WEIGHTS, MANIFEST)
) -> Path:
    """The folder of a model, its `files` downloaded if necessary; errors as `load`."""
    if len(os.fspath(name)) > 1000:
        raise UnknownNameError(f"{os.fspath(name)[:60]}... is no model: a name of {len(os.fspath(name)):,} letters")
    folder, outer = local_folder(name), opening()
    if folder is not None:
        return _unversioned(folder, access)
    try:
        return _published(name, access, files)
    except (UnknownNameError, WeightsError) as error:
        if outer is None:
            raise
        raise FileError(
            f"{outer} is built on the model {os.fspath(name)!r}, which is missing: there is no folder "
            f"{Path.cwd() / name} or {outer / name}. Put it back; a model saved with standalone=True needs no other. "
            f"{error}"
        ) from error


def _unversioned(folder: Path, access: Access) -> Path:
    refuse_idle([(access.revision is not None, "revision", f"for {folder}, which is no Hub repository")])
    return folder


def _published(name: str | os.PathLike[str], access: Access, files: Sequence[str]) -> Path:
    target = text = os.fspath(name)
    if text in registry().names("model"):
        entry = registry().get("model", text)[0]
        if "unpublished" in entry.args:
            raise WeightsError(
                f"The model {text!r} has no published weights. {entry.args['unpublished']}. {_offline()}"
            )
        package, _, inside = entry.target.partition(":")
        if package != "hub":
            return _unversioned(registry().folder(entry), access)
        target, _, pinned = inside.partition("@")
        access = replace(access, revision=access.revision or pinned or None)
    elif isinstance(name, os.PathLike) or text.count("/") != 1 or text.startswith((".", "/", "~")):
        try:
            registry().get("model", text)
        except UnknownNameError as error:
            if text in registry().names("preset"):
                raise UnknownNameError(of_preset(text)) from None
            message = f"{error} Nor is {text!r} a folder, or a Hub repository (owner/name)."
            raise UnknownNameError(message, error.hint) from None
    if target != text or may_fetch(target):
        return fetch(target, text, files, access)
    try:
        return fetch(target, text, files, replace(access, local_files_only=True))
    except WeightsError as error:
        raise unnamed(target) from error


def of_preset(name: str) -> str:
    """What to do with a preset's name in a model's place."""
    header = [line.removeprefix("#   ") for line in registry().text("preset", name).splitlines() if line[:4] == "#   "]
    commands = " && ".join(line for line in header if line.startswith(("dense-ctx ", "accelerate ")))
    return f"{name!r} is a preset, not a model: `{commands}` runs it; what it trains opens by its folder, OUT/model"


def unnamed(repository: str) -> WeightsError:
    """The error for an uncached repository that a file names, from which nothing is downloaded."""
    return WeightsError(
        f"{opening()} names the Hub repository {repository}, which is not in the cache, and is not fetched "
        f"from, as only a file asks for it. If you mean it: from_pretrained(..., allow=[{repository!r}])"
    )


def fetch(repository: str, name: str, files: Sequence[str], access: Access = Access()) -> Path:
    """Download `files` of a Hub repository to the cache; returns their folder.

    Raises:
        UnknownNameError: the Hub has no such repository or revision (or hides it from this token).
        WeightsError: no access, no connection and nothing cached, or another answer of the Hub's, for all of
            `transfer.BUDGET` seconds.
    """
    from huggingface_hub import constants, errors, snapshot_download

    cache_dir = None if access.cache_dir is None else os.fspath(access.cache_dir)
    called = repository if name == repository else f"{repository} (the short name {name!r})"
    snapshot = partial(
        snapshot_download, repository, revision=access.revision, token=access.token, allow_patterns=list(files),
        cache_dir=cache_dir, library_name="dense_ctx",
    )  # fmt: skip
    try:
        folder = persevere(partial(snapshot, local_files_only=access.local_files_only))
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"{called} is gated: ask for access on its page, then `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UnknownNameError(
            f"The Hub has no repository {called}, or it is private: check the spelling, or `hf auth login`. "
            f"{_offline()}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UnknownNameError(f"{called} has no revision {access.revision!r}") from error
    except errors.HFValidationError as error:
        raise UnknownNameError(
            f"{name!r} is not a folder, a short name or a Hub repository (owner/name): {error}"
        ) from error
    except Exception as error:
        with contextlib.suppress(errors.LocalEntryNotFoundError):  # the Hub fails, and everything is in the cache
            return Path(snapshot(local_files_only=True))
        # errors of older clients have no response
        answer = error.response if isinstance(error, errors.HfHubHTTPError) else None
        status = None if answer is None else answer.status_code
        if status in (401, 403):
            raise WeightsError(
                f"The Hub refuses access to {called} ({status}): `hf auth login` or set HF_TOKEN"
            ) from error
        why = f"the Hub could not be reached ({type(error).__name__})"
        if access.local_files_only or constants.HF_HUB_OFFLINE:
            why = f"{'HF_HUB_OFFLINE' if constants.HF_HUB_OFFLINE else 'local_files_only'} is set"
        absent = (
            f"There is no folder {name}, and the Hub repository is" if name == repository else f"The model {called} is"
        )
        raise WeightsError(
            f"{absent} not in the cache {cache_dir or constants.HF_HUB_CACHE} (HF_HOME moves it), {why}. {_offline()}"
        ) from error
    return Path(folder)


def _offline() -> str:
    packaged = [entry.name for entry in registry().entries("model") if not entry.target.startswith("hub:")]
    listing = f"Models that need no network: {', '.join(packaged)}. " if packaged else ""
    return (
        f"{listing}Without a network, a model folder opens by its path, and AutoDenseModel.from_parts builds one on "
        '"efficientnet-lite0" (weights from pip) or on any backbone with weights="PATH"'
    )
