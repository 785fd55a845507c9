"""Autoencoders and text encoders answer as those of PyTorch, from the same files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets.autoencoders import kl, tiled
from jaxdiff.pretrained import load_part, make_net
from jaxdiff.pretrained.families.autoencoder import taesd_tensors
from jaxdiff.pretrained.files import read_folder
from jaxdiff.pretrained.names import tensors_of
from jaxdiff.pretrained.part import assemble
from tests.pretrained.parity import ROOT, fixture, gap, nchw, nhwc

SLOW_AUTOENCODERS = ("vae16", "vq_attention", "taesd_silu")
SLOW_TEXTS = ("clip_projected", "t5_relu", "bert", "bert_relu")
VISIONS = ("clip_vision", "clip_vision_plain")
# A code of a codebook jumps, and attention over few places has steep gradients.
NEAR, GRADIENT = 2e-6, 2e-5


def first(default, *others):
    """Cases of every run, and those of the slow one."""
    return [*default.split(), *(pytest.param(name, marks=pytest.mark.slow) for name in others)]


@pytest.fixture(autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.mark.parametrize("name", first("vae4 taesd", "vq", *SLOW_AUTOENCODERS))
def test_an_autoencoder_encodes_and_decodes_as_pytorch(name):
    part, io = fixture(name)
    code = jax.jit(part.net.encode)(part.params, nhwc(io["image"]))
    assert gap(nchw(code.mean), io["mean"]) < NEAR
    if code.logvar is not None:
        assert gap(nchw(code.logvar), io["logvar"]) < NEAR
        assert gap(kl(code) / io["kl"], 1) < NEAR
    decoded = jax.jit(part.net.decode)(part.params, nhwc(io["code"]))
    assert gap(nchw(decoded), io["decoded"]) < NEAR


@pytest.mark.parametrize("name", first("vq", "vq_attention"))
def test_a_codebook_finds_the_entries_of_pytorch(name):
    part, io = fixture(name)
    found = part.net.quantize(part.params, nhwc(io["code"]))
    assert (np.asarray(found.index).ravel() == io["index"]).all()
    assert gap(nchw(found.latents), io["nearest"]) < NEAR


@pytest.mark.parametrize("name", first("taesd", "vae4", "vq"))
def test_the_gradient_through_an_autoencoder_is_that_of_pytorch(name):
    part, io = fixture(name)
    probe = nhwc(io["probe"])

    def score(params, image):
        return jnp.sum(probe * part.net.decode(params, part.net.encode(params, image).mean))

    of_params, of_image = jax.jit(jax.grad(score, (0, 1)))(part.params, nhwc(io["image"]))
    assert gap(nchw(of_image), io["image_gradient"]) < GRADIENT * _size(io["image_gradient"])
    _weight_gradient(name, of_params, io)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae4", "vae16"])
def test_tiles_are_blended_as_in_diffusers(name):
    part, io = fixture(name)
    encode, decode = (
        lambda x: part.net.encode(part.params, x),
        lambda z: part.net.decode(part.params, z),
    )
    code = jax.jit(lambda x: tiled(encode, x, tile=16, to=8))(nhwc(io["tiled_image"]))
    assert gap(nchw(code.mean), io["tiled_mean"]) < NEAR
    image = jax.jit(lambda z: tiled(decode, z, tile=8, to=16))(nhwc(io["tiled_code"]))
    assert gap(nchw(image), io["tiled_decoded"]) < NEAR


@pytest.mark.parametrize("name", first("clip_quick t5_gated", *SLOW_TEXTS))
def test_a_text_encoder_answers_as_pytorch(name):
    part, io = fixture(name)
    ids, mask = jnp.asarray(io["ids"]), jnp.asarray(io["mask"])
    out = jax.jit(part.net.apply)(part.params, ids, mask)
    assert gap(out.last, io["last"]) < NEAR
    if "pooled" in io:
        assert gap(out.pooled, io["pooled"]) < NEAR
    for i, state in enumerate(out.hidden[:-1]):
        assert gap(state, io[f"hidden{i}"]) < NEAR
    bare = jax.jit(part.net.apply)(part.params, ids)
    assert gap(bare.last, io["bare"]) < NEAR


@pytest.mark.parametrize("name", first("clip_projected", "clip_quick", "t5_gated", "bert"))
def test_the_gradient_through_a_text_encoder_is_that_of_pytorch(name):
    part, io = fixture(name)
    ids, mask = jnp.asarray(io["ids"]), jnp.asarray(io["mask"])

    def score(params):
        out = part.net.apply(params, ids, mask)
        return jnp.sum((out.last if out.pooled is None else out.pooled) * io["probe"])

    _weight_gradient(name, jax.jit(jax.grad(score))(part.params), io)


@pytest.mark.parametrize("name", first("clip_vision", "clip_vision_plain"))
def test_an_image_encoder_answers_as_pytorch(name):
    part, io = fixture(name)
    out = jax.jit(part.net.apply)(part.params, nhwc(io["image"]))
    assert gap(out.last, io["last"]) < NEAR
    assert gap(out.pooled, io["pooled"]) < NEAR

    def score(image, params):
        return jnp.sum(part.net.apply(params, image).pooled * io["probe"])

    of_image = jax.jit(jax.grad(score))(nhwc(io["image"]), part.params)
    assert gap(nchw(of_image), io["image_gradient"]) < GRADIENT * _size(io["image_gradient"])


@pytest.mark.parametrize(
    "name",
    first("vq clip_quick", "vae4", "taesd", *SLOW_AUTOENCODERS, "t5_gated", *SLOW_TEXTS, *VISIONS),
)
def test_the_tensors_come_back_bit_by_bit(name):
    part = load_part(ROOT / name)
    stored, ours = read_folder(ROOT / name), tensors_of(part.params)
    prefix = {"clip_quick": "text_model.", "clip_vision_plain": "vision_model."}.get(name, "")
    assert {prefix + key for key in stored} == set(ours)
    assert all((ours[prefix + key] == value).all() for key, value in stored.items())


@pytest.mark.parametrize(
    "layout", [*first("", "query/key/value/proj_attn", "bare TAESD"), "CLIP of a hub"]
)
def test_other_layouts_give_the_same_parameters(layout):
    name = {"q": "vae4", "b": "taesd", "C": "clip_quick"}[layout[0]]
    part = load_part(ROOT / name)
    tensors = read_folder(ROOT / name)
    if name == "vae4":
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for new, before in old.items():
            tensors = {k.replace(f".{new}.", f".{before}."): v for k, v in tensors.items()}
    elif name == "taesd":
        halves = [
            {
                f"{int(n) + more}.{rest}": v
                for k, v in tensors.items()
                if k.startswith(f"{half}.layers.")
                for n, rest in [k.removeprefix(f"{half}.layers.").split(".", 1)]
            }
            for half, more in (("encoder", 0), ("decoder", 1))
        ]
        tensors = taesd_tensors(*halves)
    else:
        tensors = {f"text_model.{k}": v for k, v in tensors.items()}
        tensors["text_model.embeddings.position_ids"] = np.arange(12)[None]
    again = assemble(part.config, tensors)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), part.params, again.params)
    assert all(jax.tree.leaves(same))


def test_latents_are_shifted_and_scaled():
    config = {"_class_name": "AutoencoderKL", "scaling_factor": 0.5, "latent_channels": 2}
    z = jnp.array([3.0, 5.0]).reshape(1, 1, 1, 2)
    net = make_net(config | {"latents_mean": [1.0, 1.0], "latents_std": [2.0, 4.0]})
    assert gap(net.to_latent(z).ravel(), [0.5, 0.5]) == 0
    assert gap(net.from_latent(net.to_latent(z)), z) == 0
    assert gap(make_net(config | {"shift_factor": 1.0}).to_latent(z).ravel(), [1.0, 2.0]) == 0


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"_class_name": "AutoencoderKL", "act_fn": "mish"}, "act_fn is 'mish'"),
        ({"_class_name": "AutoencoderKL", "down_block_types": ["CrossDown"]}, "has a CrossDown"),
        ({"_class_name": "AutoencoderKL", "block_out_channels": [32, 64]}, "no mirror images"),
        ({"_class_name": "AutoencoderKL", "block_out_channels": [20]}, "groups is 32"),
        ({"_class_name": "AutoencoderKL", "warp": 1}, "does not know: warp"),
        ({"_class_name": "VQModel", "norm_type": "spatial"}, "norm_type is 'spatial'"),
        ({"_class_name": "AutoencoderTiny", "num_encoder_blocks": [1]}, "blocks is"),
        ({"architectures": ["CLIPTextModel"], "num_attention_heads": 7}, "heads is 7"),
        ({"architectures": ["CLIPTextModel"], "hidden_act": "tanh"}, "hidden_act is 'tanh'"),
        ({"architectures": ["T5EncoderModel"], "feed_forward_proj": "x"}, "feed_forward_proj"),
        ({"architectures": ["BertModel"], "position_embedding_type": "r"}, "position_embedding"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(config, why):
    with pytest.raises(ValueError, match=why):
        make_net(config)


def _weight_gradient(name, of_params, io):
    from experiments.pytorch_parity.makers.encoders import CASES

    found = tensors_of(of_params)
    weight = CASES[name].weight
    weight = weight if weight in found else f"text_model.{weight}"
    expected = io["weight_gradient"]
    assert gap(found[weight], expected) < GRADIENT * _size(expected)


def _size(x):
    return max(1.0, float(np.abs(x).max()))
