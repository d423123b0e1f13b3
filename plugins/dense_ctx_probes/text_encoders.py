"""Text encoders of `dense_ctx_probes.text`: CLIP models of transformers and of open_clip."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor
from torch.nn import functional

from dense_ctx.containment import optional_package
from dense_ctx.errors import UnknownNameError, WeightsError
from dense_ctx.persistence import hub

OPEN_CLIP = "open_clip:"
# of a CLIP model on the Hub: its configuration, weights and tokenizer
_FILES = ("*.json", "merges.txt", "*.safetensors", "spiece.model")
Encoder: TypeAlias = Callable[[Sequence[str]], Tensor]


def text_encoder(model: str, device: str) -> Encoder:
    """Sentences -> unit vectors [N, E], by the encoder `model` names; see `dense_ctx_probes.text.embed_text`.

    Raises:
        WeightsError: it is unavailable, or lacks weights.
        MissingDependencyError: open_clip is asked for and not installed.
    """
    return _open_clip(model, device) if model.startswith(OPEN_CLIP) else _transformers(model, device)


def _transformers(model: str, device: str) -> Encoder:
    from transformers import AutoTokenizer, CLIPTextModelWithProjection
    from transformers.utils.peft_utils import find_adapter_config_file

    if not os.path.isdir(model):  # else transformers asks for its files one after the other, and tries each for long
        try:
            model = str(hub.fetch(model, model, _FILES))
        except (UnknownNameError, WeightsError) as error:
            raise _not_had(model, error, "Give a folder or the name of a CLIP model on the Hub") from error
    try:
        if find_adapter_config_file(model) is not None:  # transformers would open the repository that it names
            raise ValueError("it holds an adapter (adapter_config.json), which is not loaded: merge it first")
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)  # nosec B615  # a local folder
        loaded: Any = CLIPTextModelWithProjection.from_pretrained(  # nosec B615
            model, output_loading_info=True, trust_remote_code=False, weights_only=True
        )
    except (OSError, ValueError) as error:
        raise _not_had(model, error, "Give a folder or the name of a CLIP model on the Hub") from error
    encoder, report = loaded
    if report["missing_keys"]:  # transformers fills them with random numbers
        raise WeightsError(
            f"The text encoder {model} lacks {', '.join(sorted(report['missing_keys'])[:3])}: it needs the text tower "
            "and the projection of a whole CLIP model"
        )
    encoder = encoder.to(device).eval()

    def encode(sentences: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt")
        return functional.normalize(encoder(**tokens.to(device)).text_embeds.float(), dim=-1)

    return encode


def _open_clip(model: str, device: str) -> Encoder:
    open_clip = optional_package("open_clip", model, '"dense-ctx[open-clip]"')
    name = model.removeprefix(OPEN_CLIP)
    tag: str | None = None
    if not name.startswith(("hf-hub:", "local-dir:")):
        name, slash, tag = name.rpartition("/")
        if not slash or not name or not tag:
            raise WeightsError(
                f"{model} names no weights: expected open_clip:NAME/TAG such as open_clip:ViT-B-32/laion2b_s34b_b79k, "
                "open_clip:hf-hub:OWNER/NAME or open_clip:local-dir:PATH"
            )
    try:
        # without require_pretrained open_clip uses random weights where it finds none
        clip = open_clip.create_model(name, pretrained=tag, device=device, require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(name)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise _not_had(model, error, "`open_clip.list_pretrained()` names all") from error
    clip = clip.eval()

    def encode(sentences: Sequence[str]) -> Tensor:
        return functional.normalize(clip.encode_text(tokenizer(list(sentences)).to(device)).float(), dim=-1)

    return encode


def _not_had(model: str, error: Exception, hint: str) -> WeightsError:
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return WeightsError(
        f"The text encoder {model} is unavailable: {first}. {hint}, or use a file of embeddings made elsewhere"
    )
