"""Tiny files of the published upsamplers' layouts: names and shapes as the authors' code saves them, random values."""

import itertools

import numpy as np
import torch

CHANNELS = 8  # of the backbone's map
WIDTH = 16  # of queries and keys, where the file decides
SIZES = {"naf": ((9, 10), (27, 40)), None: ((2, 3), (28, 42))}  # of the map, and of image and output


def _convs(prefix, bias, *convs):
    """convs: (name, out, in, kernel)."""
    for name, out, channels, kernel in convs:
        yield f"{prefix}{name}.weight", (out, channels, kernel, kernel)
        if bias:
            yield f"{prefix}{name}.bias", (out,)


def _affine(name, width):
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _batch_norm(name, width):
    yield from _affine(name, width)
    yield f"{name}.running_mean", (width,)
    yield f"{name}.running_var", (width,)
    yield f"{name}.num_batches_tracked", ()


def _encoder(prefix, channels, width, kernel=1, inner=1, bias=False, block=("norm1", "conv1", "norm2", "conv2")):
    if channels:
        yield from _convs(prefix, bias, ("0", width, channels, kernel))
    for number in (1, 2):
        for norm, conv in (block[:2], block[2:]):
            yield from _affine(f"{prefix}{number}.{norm}", width)
            yield from _convs(f"{prefix}{number}.", bias, (conv, width, width, inner))


def _attention(width, values=None):
    prefix = "cross_decode.cross_attn."
    yield f"{prefix}norm_q.weight", (width,)
    yield f"{prefix}norm_k.weight", (width,)
    if values:
        yield f"{prefix}norm_v.weight", (values,)
        for name, side in (("q", width), ("k", width), ("v", values)):
            yield f"{prefix}attention.{name}_proj_weight", (width, side)
    else:
        yield f"{prefix}attention.in_proj_weight", (3 * width, width)
    yield f"{prefix}attention.in_proj_bias", (3 * width,)
    yield f"{prefix}attention.out_proj.weight", (width, width)
    yield f"{prefix}attention.out_proj.bias", (width,)
    yield "cross_decode.conv2d.weight", (width, width, 3, 3)
    yield "rope.freqs", (2, width)


def anyup(width=WIDTH):
    block = ("block.0", "block.2", "block.3", "block.5")
    for name, channels, kernel in (("image", 3, 1), ("key", width, 1), ("query", width, 1)):
        yield from _encoder(f"{name}_encoder.", channels, width, kernel, block=block)
    yield "key_features_encoder.0.basis", (width, 1, 5, 5)
    yield from _encoder("key_features_encoder.", 0, width, block=block)
    yield from _encoder("aggregation.", 2 * width, width, 3, block=block)
    yield from _attention(width)


def jafar(width=WIDTH):
    for name, channels in (("image", 3), ("key", width), ("query", width), ("key_features", CHANNELS)):
        yield from _encoder(f"{name}_encoder.", channels, width)
    yield from _convs("sft_key.", False, ("gamma", width, width, 1), ("beta", width, width, 1))
    yield from _attention(width, CHANNELS)


def naf(width=2 * WIDTH):
    yield from _encoder("image_encoder.encoder.", 3, width // 2, bias=True)
    yield from _encoder("image_encoder.sem_encoder.", 3, width // 2, 3, 3, bias=True)
    yield "image_encoder.rope.periods", (width // 16,)


def featup():
    """The upsampler and the norm of a Lightning checkpoint, a tensor of its backbone and one of its training."""
    yield from _affine("model.1.norm", CHANNELS)
    for stage in range(1, 5):
        prefix = f"upsampler.up{stage}."
        yield f"{prefix}range_temp", ()
        yield f"{prefix}sigma_spatial", ()
        yield from _convs(f"{prefix}range_proj.", True, ("0", 32, 3, 1), ("3", 32, 32, 1))
        yield from _convs(f"{prefix}fixup_proj.", True, ("0", 49, 52, 1), ("3", 49, 49, 1))
    yield from _convs("upsampler.fixup_proj.", True, ("1", CHANNELS, CHANNELS, 1))
    yield "model.0.model.cls_token", (1, 1, CHANNELS)
    yield from _convs("scale_net.", True, ("net", 1, CHANNELS, 1))


def loftup():
    width = CHANNELS + 20
    yield from _affine("channelnorm.norm", CHANNELS)
    up = "upsampler."
    yield f"{up}lr_pe.biases", (2, 2, 5)
    yield f"{up}fourier_feat.1.biases", (2, 5, 20)
    yield from _affine(f"{up}first_conv.0.norm", 203)
    yield from _convs(f"{up}first_conv.", True, ("1", width, 203, 3), ("4", width, width, 3))
    yield from _batch_norm(f"{up}first_conv.2", width)
    yield from _batch_norm(f"{up}first_conv.5", width)
    yield from _convs(f"{up}final_conv.", True, ("0", CHANNELS, width, 1))
    yield from _affine(f"{up}final_conv.1", CHANNELS)
    yield from _affine(f"{up}ca_transformer.norm", width)
    for layer in range(2):
        first, second = (f"{up}ca_transformer.layers.{layer}.{half}." for half in range(2))
        yield from _affine(f"{first}norm_q", width)
        yield from _affine(f"{first}norm_kv", width)
        yield f"{first}attention.in_proj_weight", (3 * width, width)
        yield f"{first}attention.in_proj_bias", (3 * width,)
        yield f"{first}attention.out_proj.weight", (width, width)
        yield f"{first}attention.out_proj.bias", (width,)
        yield from _affine(f"{second}net.0", width)
        for place, out, channels in ((1, CHANNELS, width), (4, width, CHANNELS)):
            yield f"{second}net.{place}.weight", (out, channels)
            yield f"{second}net.{place}.bias", (out,)


def uplift(width=64):
    channels = (3, 16, 32, 64, 128, 128)
    for number, (one, two) in enumerate(itertools.pairwise(channels)):
        yield from _block(f"encoder.block_{number}.", one, two, 1)
    yield from _block("decoder.block_0.", CHANNELS + 128, width, 2)
    yield from _block("decoder.block_1.", width + 128, width, 2)
    yield from _convs("decoder.up_1.", True, ("up", width, width, 2))
    yield from _convs("attender.", True, ("conv1", 17, width, 1))


def _block(prefix, channels, width, count):
    for number in range(count):
        first = width if number else channels
        yield from _convs(f"{prefix}blocks.0.conv.", False, (str(3 * number), width, first, 3))
        yield from _batch_norm(f"{prefix}blocks.0.conv.{3 * number + 1}", width)
    yield from _convs(f"{prefix}blocks.0.conv.", True, (str(3 * count), width, width, 1))


LAYOUTS = {"anyup": anyup, "featup": featup, "jafar": jafar, "loftup": loftup, "naf": naf, "uplift": uplift}


def published(name):
    """The tensors of a file, the same each time."""
    generator, state = np.random.default_rng(len(name)), {}
    for key, shape in sorted(LAYOUTS[name]()):
        fan = max(1, int(np.prod(shape[1:])))
        value = generator.normal(0, fan**-0.5 if len(shape) > 1 else 0.3, shape)
        if key.endswith(("running_var", "periods", "sigma_spatial")):
            value = 0.5 + np.abs(value)
        elif key.endswith("norm_q.weight") or (len(shape) == 1 and key.endswith(".weight")):
            value = 1 + value
        state[key] = torch.from_numpy(np.asarray(value, np.float32))
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
    return state


def inputs(name):
    """The map [1, 8, h, w], the image [1, 3, H, W] and the size of the output, the same each time."""
    generator, (grid, size) = np.random.default_rng(3), SIZES.get(name, SIZES[None])
    low, image = generator.normal(size=(1, CHANNELS, *grid)), generator.normal(size=(1, 3, *size))
    return torch.from_numpy(low.astype(np.float32)), torch.from_numpy(image.astype(np.float32)), size
