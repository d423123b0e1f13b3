"""Files from a Hub repository, with errors that say what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .errors import UnknownNameError, WeightsError
from .plugins import registry


def fetch(
    repository: str,
    name: str,
    files: Sequence[str],
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
    token: str | bool | None,
) -> Path:
    """Bring `files` of a Hub repository into the cache; returns the folder they lie in.

    Raises:
        UnknownNameError: the Hub has no such repository or revision (or hides it from this token).
        WeightsError: no access, no connection and nothing cached, or another answer of the Hub's.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    called = repository if name == repository else f"{repository} (the short name {name!r})"
    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            cache_dir=None if cache_dir is None else os.fspath(cache_dir),
            local_files_only=local_files_only,
            token=token,
            allow_patterns=list(files),
            library_name="dense_ctx",
        )
    except GatedRepoError as error:
        raise WeightsError(
            f"{called} is gated: ask for access on its page, then `hf auth login` or set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        published = "" if name == repository else " It has not been published yet: see the README for how it is made."
        raise UnknownNameError(
            f"The Hub has no repository {called}, or it is private: check the spelling, or `hf auth login`.{published} "
            f"{_offline()}"
        ) from error
    except RevisionNotFoundError as error:
        raise UnknownNameError(f"{called} has no revision {revision!r}") from error
    except HFValidationError as error:
        raise UnknownNameError(
            f"{name!r} is not a folder, a short name or a Hub repository (owner/name): {error}"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise WeightsError(
                f"The Hub refuses access to {called} ({status}): `hf auth login` or set HF_TOKEN"
            ) from error
        why = (
            "local_files_only is set" if local_files_only else f"the Hub could not be reached ({type(error).__name__})"
        )
        if constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set"
        unsure = "" if name == repository else " Not every short name has weights yet: the README lists which."
        raise WeightsError(
            f"The model {called} is not in the cache {cache_dir or constants.HF_HUB_CACHE} (HF_HOME moves it), {why}."
            f"{unsure} {_offline()}"
        ) from error
    return Path(folder)


def _offline() -> str:
    packaged = [entry.name for entry in registry().entries("model") if not entry.target.startswith("hub:")]
    known = f"Models that need no network: {', '.join(packaged)}. " if packaged else ""
    return (
        f"{known}Without a network, a model folder opens by its path, and AutoDenseModel.from_parts builds one on "
        '"efficientnet-lite0" (weights from pip) or on any backbone with weights="PATH"'
    )
