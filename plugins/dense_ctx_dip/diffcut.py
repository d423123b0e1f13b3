"""DiffCut: segments from the self-attention of a diffusion UNet's encoder (Couairon et al. 2024, arXiv 2406.02842)."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.errors import InputError, WeightsError
from dense_ctx.interfaces import Size

from .ncut import ncut_segments
from .segmenters import Segmenter


class DiffCutSegmenter(Segmenter):
    """Recursive normalised cut on the output of the last self-attention in the UNet's encoder.

    The image is encoded to latents, noised to `timestep`, and denoised once with an empty prompt.

    Args:
        model: a Stable Diffusion XL pipeline of diffusers, by Hub name or folder (SSD-1B: half of SDXL).
        timestep: noise level, 0 .. 999.
        side: the image is resized to side x side.
        tau, alpha, official_quirk: of the cut.
        seed: of the noise.
        unet, vae: modules that replace the pipeline's.
        prompt: the empty prompt's embeddings [1, L, C] and pooled embedding [1, C'], for such modules; default zeros.

    Raises:
        WeightsError: the pipeline is unavailable.
        InputError: the UNet's encoder has no self-attention.
    """

    def __init__(
        self,
        model: str = "segmind/SSD-1B",
        timestep: int = 50,
        side: int = 1024,
        tau: float = 0.5,
        alpha: float = 10.0,
        official_quirk: bool = False,
        seed: int = 0,
        unet: Any = None,
        vae: Any = None,
        prompt: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        if not 0 <= timestep < 1000 or side < 64 or not 0 < tau <= 2 or not alpha > 0:
            raise InputError(
                f"timestep={timestep}, side={side}, tau={tau}, alpha={alpha}: expected timestep in 0..999, "
                "side at least 64, tau in (0, 2] and alpha above 0"
            )
        if unet is None or vae is None:
            unet, vae, prompt = _pipeline(model)
        self.unet, self.vae, self.prompt = unet.eval(), vae.eval(), prompt
        self.scheduler = diffusers.DDPMScheduler(
            num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        )
        self.timestep, self.side, self.seed = timestep, side, seed
        self.tau, self.alpha, self.official_quirk = tau, alpha, official_quirk
        self._attention = _last_self_attention(self.unet)

    def to(self, device: str | torch.device) -> DiffCutSegmenter:
        """Move the networks to a device."""
        self.unet.to(device)
        self.vae.to(device)
        return self

    @torch.no_grad()
    def features(self, image: Tensor) -> Tensor:
        """Features [C, h, w] of an image [3, H, W] in [0, 1]."""
        weight = next(self.unet.parameters())
        square = functional.interpolate(image[None].float(), (self.side, self.side), mode="bilinear", antialias=True)
        pixels = (2 * square.clamp(0, 1) - 1).to(weight)
        latents = self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(self.seed)).to(latents)
        step = torch.tensor([self.timestep], device=weight.device)
        noised = self.scheduler.add_noise(latents, noise, step)
        outputs: list[Tensor] = []
        hook = self._attention.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        try:
            self.unet(noised, step, **self._condition(weight))
        finally:
            hook.remove()
        rows = outputs[0][0]  # [h * w, C] of a square grid
        grid = round(len(rows) ** 0.5)
        return rearrange(rows, "(h w) c -> c h w", h=grid).float()

    def _condition(self, like: Tensor) -> dict[str, Any]:
        config = self.unet.config
        if self.prompt is not None:
            embeddings, pooled = self.prompt
        else:
            embeddings = torch.zeros(1, 77, config.cross_attention_dim)
            times = 6 * (config.addition_time_embed_dim or 0)
            pooled = torch.zeros(1, max(0, (config.projection_class_embeddings_input_dim or 0) - times))
        condition: dict[str, Any] = {"encoder_hidden_states": embeddings.to(like)}
        if getattr(config, "addition_embed_type", None) == "text_time":
            sizes = torch.tensor([[self.side, self.side, 0, 0, self.side, self.side]])
            condition["added_cond_kwargs"] = {"text_embeds": pooled.to(like), "time_ids": sizes.to(like)}
        return condition

    def __call__(self, image: Tensor, features: Tensor | None, size: Size) -> Tensor:
        """As `Segmenter`."""
        return ncut_segments(self.features(image), size, self.tau, self.alpha, self.official_quirk)


def _pipeline(model: str) -> tuple[Any, Any, tuple[Tensor, Tensor]]:
    try:
        pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(
            model, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # diffusers raises OSError, ValueError, HTTP and connection errors of several packages
        raise WeightsError(f"The diffusion model {model} is unavailable: {type(error).__name__}: {error}") from error
    embeddings, _, pooled, _ = pipeline.encode_prompt("", do_classifier_free_guidance=False)
    return pipeline.unet, pipeline.vae, (embeddings.detach(), pooled.detach())


def _last_self_attention(unet: nn.Module) -> nn.Module:
    """The first attention (the self-attention) of the last transformer block in the encoder."""
    attentions = [
        part for name, part in unet.named_modules() if name.startswith("down_blocks.") and name.endswith(".attn1")
    ]
    if not attentions:
        raise InputError(
            f"{type(unet).__name__}'s encoder (down_blocks) has no self-attention, whose output would be the features"
        )
    return attentions[-1]
