"""Between pixels and latents: sizes, and the autoencoder of a checkpoint.

z = scale (E(image) - shift),   image = D(z / scale + shift)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdiff.denoise import check_range
from jaxdiff.pipelines.parts import Pretrained
from jaxdiff.trees import keys_for, normal
from jaxdiff.types import number


def factor(loaded: Pretrained) -> int:
    """Pixels a side of one latent; 1 where the network sees pixels."""
    return int(loaded.parts["vae"].net.factor) if "vae" in loaded.parts else 1


def channels(loaded: Pretrained) -> int:
    """Channels of what is sampled: of the latents, or of pixels."""
    if "vae" in loaded.parts:
        return int(loaded.parts["vae"].net.channels)
    return int(loaded.config.get("in_channels", 3))


def latent_shape(
    loaded: Pretrained, n: int, size: int | tuple[int, int] | None
) -> tuple[int, int, int, int]:
    """The shape [n, h, w, c] of the latents of n images.

    Args:
      loaded: the checkpoint.
      n: number of images.
      size: height and width of the images in pixels (one number if equal); by default what the
        network was trained for.

    Raises:
      ValueError: a size that the network cannot take, with the nearest that it can.
    """
    f = factor(loaded)
    if size is None and loaded.kind == "FluxTransformer2DModel":
        size = 1024  # its config does not say
    if size is None:
        trained = loaded.config.get("sample_size") or 64
        sides = (trained, trained) if isinstance(trained, int) else tuple(trained)
        return (n, int(sides[0]), int(sides[1]), channels(loaded))
    h, w = (size, size) if isinstance(size, int) else size
    step = f * _multiple(loaded)
    if h % step or w % step or min(h, w) < step:
        near = [max(step, round(side / step) * step) for side in (h, w)]
        raise ValueError(
            f"size is {h} x {w}: this network takes multiples of {step}; the nearest is "
            f"{near[0]} x {near[1]}"
        )
    return (n, h // f, w // f, channels(loaded))


def _multiple(loaded: Pretrained) -> int:
    """Of how many latents the sides of the network's input are multiples."""
    config = loaded.config
    if "patch_size" in config:
        # FLUX packs 2 x 2 latents into a token and says patch_size 1
        return max(2, int(config["patch_size"]))
    levels = len(config.get("block_out_channels") or config.get("down_block_types") or (0,))
    return 2 ** (levels - 1)


def encode(
    loaded: Pretrained, image: Float[Array, "b h w c"], key: Key[Array, ""] | None = None
) -> Float[Array, "b hz wz cz"]:
    """Latents of images in [-1, 1]: a sample with a key, the mode without; scaled for the network.

    Raises:
      ValueError: if the image lies outside [-1, 1].
    """
    check_range(image, (number(-1.0), number(1.0)), "image")
    if "vae" not in loaded.parts:
        return image
    vae = loaded.part("vae")
    coded = jax.jit(vae.net.encode)(vae.params, image)
    z = coded.mean
    if key is not None and coded.logvar is not None:
        keys = keys_for(key, jnp.arange(z.shape[0]))
        z = z + jnp.exp(coded.logvar / 2) * normal(keys, z)
    return vae.net.to_latent(z)


def decode(loaded: Pretrained, z: Float[Array, "b hz wz cz"]) -> Float[Array, "b h w c"]:
    """Images in about [-1, 1] of latents."""
    if "vae" not in loaded.parts:
        return z
    vae = loaded.part("vae")
    return jax.jit(vae.net.decode)(vae.params, vae.net.from_latent(z))
