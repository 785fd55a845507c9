"""Whole tiny pipelines of diffusers: prompts or labels in, images out, with their own schedulers.

Each folder is a checkpoint as diffusers writes it (random weights, a small vocabulary), and io.npz
the starting noise and the images after 20 steps.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments.pytorch_parity.makers.schedulers import SD

PROMPTS = ["a photo of the house", "the time of an open image and some more words"]
NEGATIVE = "not the photo"
STEPS = 20
Arrays = dict[str, np.ndarray]
SMALL = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}


def make(root: pathlib.Path, seed: int = 0) -> None:
    """Write all CASES; needs clip_words/ and t5_words/ in `root`."""
    for name, case in CASES.items():
        folder = root / name
        pipe, call = case(root / "clip_words", seed)
        pipe.set_progress_bar_config(disable=True)
        pipe.save_pretrained(folder)
        rng = np.random.default_rng(seed)
        io = {"noise": rng.normal(size=(2, 4, 8, 8)).astype(np.float32)}
        if name in IMAGES:
            io["image"] = rng.uniform(-1, 1, size=(2, 3, 16, 16)).astype(np.float32)
            io["mask"] = (rng.uniform(size=(2, 1, 16, 16)) > 0.5).astype(np.float32)
        np.savez_compressed(folder / "io.npz", allow_pickle=False, **io, images=call(pipe, io))


def _seeded(model: Any, seed: int) -> Any:
    """Every weight moved, so that none is 0 or 1 by its initial value."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return model.eval()


def _clip(words: pathlib.Path, seed: int, *, projected: bool = False, **options: Any) -> Any:
    import transformers

    end = json.loads((words / "vocab.json").read_text())["<|endoftext|>"]
    config = transformers.CLIPTextConfig(
        vocab_size=end + 1,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=16,
        bos_token_id=end - 1,
        eos_token_id=end,
        **options,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return _seeded(kind(config), seed)


def _vae(seed: int, **options: Any) -> Any:
    import diffusers

    made = diffusers.AutoencoderKL(
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **SMALL,
        **options,
    )
    return _seeded(made, seed)


def _unet(seed: int, **options: Any) -> Any:
    import diffusers

    made = diffusers.UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **SMALL,
        **options,
    )
    return _seeded(made, seed)


def _words(words: pathlib.Path) -> Any:
    import transformers

    return transformers.CLIPTokenizer.from_pretrained(words)


def sd15(words: pathlib.Path, seed: int) -> tuple[Any, Callable[..., np.ndarray]]:
    """Stable Diffusion 1.5 with PNDM."""
    import diffusers

    pipe = diffusers.StableDiffusionPipeline(
        vae=_vae(seed),
        text_encoder=_clip(words, seed + 1),
        tokenizer=_words(words),
        unet=_unet(seed + 2, cross_attention_dim=16, attention_head_dim=2),
        scheduler=diffusers.PNDMScheduler(**SD, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipe, _by_text(guidance_scale=7.5)


def sdxl(words: pathlib.Path, seed: int) -> tuple[Any, Callable[..., np.ndarray]]:
    """SDXL with Euler's method."""
    import diffusers

    unet = _unet(
        seed + 2,
        cross_attention_dim=32,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
        transformer_layers_per_block=(1, 2),
    )
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=_vae(seed, scaling_factor=0.13025),
        text_encoder=_clip(words, seed + 1),
        text_encoder_2=_clip(words, seed + 3, projected=True, hidden_act="gelu"),
        tokenizer=_words(words),
        tokenizer_2=_words(words),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(
            **SD, timestep_spacing="leading", steps_offset=1
        ),
        add_watermarker=False,
    )
    return pipe, _by_text(guidance_scale=5.0)


def sd3(words: pathlib.Path, seed: int) -> tuple[Any, Callable[..., np.ndarray]]:
    """Stable Diffusion 3 without T5, with a shifted flow."""
    import diffusers

    net = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
    )
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=_seeded(net, seed + 2),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(seed, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False,
                 use_post_quant_conv=False),
        text_encoder=_clip(words, seed + 1, projected=True),
        tokenizer=_words(words),
        text_encoder_2=_clip(words, seed + 3, projected=True, hidden_act="gelu"),
        tokenizer_2=_words(words),
        text_encoder_3=None,
        tokenizer_3=None,
    )  # fmt: skip
    return pipe, _by_text(guidance_scale=7.0)


def dit(words: pathlib.Path, seed: int) -> tuple[Any, Callable[..., np.ndarray]]:
    """DiT with DDIM; its pipeline draws the noise itself, so it is handed ours."""
    import diffusers

    net = diffusers.DiTTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        num_embeds_ada_norm=1000,
    )
    pipe = diffusers.DiTPipeline(
        transformer=_seeded(net, seed + 2),
        vae=_vae(seed),
        scheduler=diffusers.DDIMScheduler(clip_sample=False),
    )
    return pipe, _by_label


def _t5(words: pathlib.Path, seed: int) -> dict[str, Any]:
    """A small T5 and its tokeniser, by the names that follow an encoder's number."""
    import transformers

    tokeniser = transformers.T5Tokenizer.from_pretrained(words.parent / "t5_words")
    config = transformers.T5Config(
        vocab_size=len(tokeniser),
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    return {"text_encoder": _seeded(transformers.T5EncoderModel(config), seed), "words": tokeniser}


def pixart(words: pathlib.Path, seed: int) -> tuple[Any, Callable[..., np.ndarray]]:
    """PixArt with DPM-Solver++."""
    import diffusers

    net = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        cross_attention_dim=16,
        caption_channels=16,
        use_additional_conditions=False,
    )
    t5 = _t5(words, seed + 1)
    pipe = diffusers.PixArtAlphaPipeline(
        tokenizer=t5["words"],
        text_encoder=t5["text_encoder"],
        vae=_vae(seed),
        transformer=_seeded(net, seed + 2),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )
    return pipe, _by_text(
        guidance_scale=4.5, use_resolution_binning=False, clean_caption=False, height=16, width=16
    )


def flux(words: pathlib.Path, seed: int) -> tuple[Any, Callable[..., np.ndarray]]:
    """FLUX, told its guidance, with a shift that depends on the size."""
    import diffusers

    net = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    t5 = _t5(words, seed + 3)
    pipe = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(seed, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
                 use_post_quant_conv=False),
        text_encoder=_clip(words, seed + 1),
        tokenizer=_words(words),
        text_encoder_2=t5["text_encoder"],
        tokenizer_2=t5["words"],
        transformer=_seeded(net, seed + 2),
    )  # fmt: skip

    def call(pipe: Any, io: Arrays) -> np.ndarray:
        import torch

        packed = pipe._pack_latents(torch.tensor(io["noise"]), 2, 4, 8, 8)
        given = {"latents": packed, "height": 16, "width": 16, "guidance_scale": 3.5}
        return pipe(PROMPTS, num_inference_steps=STEPS, output_type="np", **given).images

    return pipe, call


def _by_text(**options: Any) -> Callable[..., np.ndarray]:
    def call(pipe: Any, io: Arrays) -> np.ndarray:
        import torch

        return pipe(
            PROMPTS,
            negative_prompt=[NEGATIVE] * 2,
            num_inference_steps=STEPS,
            latents=torch.tensor(io["noise"]),
            output_type="np",
            **options,
        ).images

    return call


def _by_label(pipe: Any, io: Arrays) -> np.ndarray:
    from diffusers.pipelines.dit import pipeline_dit

    with _drawing(pipeline_dit, io["noise"]):
        return pipe([7, 31], guidance_scale=4.0, num_inference_steps=STEPS, output_type="np").images


@contextlib.contextmanager
def _drawing(module: Any, noise: np.ndarray) -> Iterator[None]:
    """A pipeline that draws its noise itself is handed ours."""
    import torch

    drawn, module.randn_tensor = module.randn_tensor, lambda *_, **__: torch.tensor(noise)
    try:
        yield
    finally:
        module.randn_tensor = drawn


def _parts(words: pathlib.Path, seed: int, channels: int = 4) -> dict[str, Any]:
    """The parts of a Stable Diffusion whose encoder has next to no variance."""
    import diffusers
    import torch

    vae = _vae(seed)
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -30
    return {
        "vae": vae,
        "text_encoder": _clip(words, seed + 1),
        "tokenizer": _words(words),
        "unet": _unet(seed + 2, cross_attention_dim=16, attention_head_dim=2, in_channels=channels),
        "scheduler": diffusers.DDIMScheduler(
            **SD, clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def img2img(words: pathlib.Path, seed: int) -> tuple[Any, Callable[..., np.ndarray]]:
    """Image to image at strength .6."""
    import diffusers
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as module

    def call(pipe: Any, io: Arrays) -> np.ndarray:
        with _drawing(module, io["noise"]):
            return _asked(pipe, image=_unit(io["image"]), strength=0.6)

    return diffusers.StableDiffusionImg2ImgPipeline(**_parts(words, seed)), call


def inpainting(words: pathlib.Path, seed: int) -> tuple[Any, Callable[..., np.ndarray]]:
    """A network of 9 channels that reads the mask."""
    import diffusers

    def call(pipe: Any, io: Arrays) -> np.ndarray:
        import torch

        images = {"image": _unit(io["image"]), "mask_image": torch.tensor(io["mask"])}
        latents = torch.tensor(io["noise"])
        return _asked(pipe, **images, latents=latents, height=16, width=16, strength=1.0)

    return diffusers.StableDiffusionInpaintPipeline(**_parts(words, seed, 9)), call


def instruct(words: pathlib.Path, seed: int) -> tuple[Any, Callable[..., np.ndarray]]:
    """InstructPix2Pix: a network of 8 channels and three branches."""
    import diffusers

    def call(pipe: Any, io: Arrays) -> np.ndarray:
        import torch

        given = {"image": _unit(io["image"]), "image_guidance_scale": 1.5}
        return _asked(pipe, **given, latents=torch.tensor(io["noise"]))

    return diffusers.StableDiffusionInstructPix2PixPipeline(**_parts(words, seed, 8)), call


def control(words: pathlib.Path, seed: int) -> tuple[Any, Callable[..., np.ndarray]]:
    """ControlNet at scale .8."""
    import diffusers

    net = diffusers.ControlNetModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        conditioning_embedding_out_channels=(4, 8),
        **SMALL,
    )

    def call(pipe: Any, io: Arrays) -> np.ndarray:
        import torch

        given = {"image": _unit(io["image"]), "controlnet_conditioning_scale": 0.8}
        return _asked(pipe, **given, latents=torch.tensor(io["noise"]))

    made = diffusers.StableDiffusionControlNetPipeline(
        **_parts(words, seed), controlnet=_seeded(net, seed + 4)
    )
    return made, call


def _unit(image: np.ndarray) -> Any:
    """[0, 1], as the pipelines take tensors."""
    import torch

    return torch.tensor(image / 2 + 0.5)


def _asked(pipe: Any, **given: Any) -> np.ndarray:
    return pipe(
        PROMPTS,
        negative_prompt=[NEGATIVE] * 2,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        output_type="np",
        **given,
    ).images


CASES = {
    "pipeline_sd15": sd15,
    "pipeline_sdxl": sdxl,
    "pipeline_sd3": sd3,
    "pipeline_dit": dit,
    "pipeline_pixart": pixart,
    "pipeline_flux": flux,
    "pipeline_img2img": img2img,
    "pipeline_inpaint": inpainting,
    "pipeline_instruct": instruct,
    "pipeline_control": control,
}
IMAGES = ("pipeline_img2img", "pipeline_inpaint", "pipeline_instruct", "pipeline_control")
