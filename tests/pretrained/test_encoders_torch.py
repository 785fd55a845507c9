"""What PyTorch itself says of our files, and of torchvision's classifiers with random weights."""

# pyright: reportMissingImports=false
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.pretrained import load_part, save_part
from jaxdiff.pretrained.names import tensors_of
from jaxdiff.pretrained.part import assemble
from tests.pretrained.parity import ROOT, gap

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]
SAVED = ("vae4", "vae16", "vq", "taesd", "clip_quick", "clip_projected", "clip_vision")
SAVED = (*SAVED, "clip_vision_plain", "t5_gated", "t5_relu", "bert")


@pytest.mark.parametrize("name", SAVED)
def test_pytorch_reads_what_we_write(name, tmp_path):
    import diffusers
    import transformers

    part = load_part(ROOT / name)
    save_part(tmp_path, part)
    library = diffusers if "_class_name" in part.config else transformers
    kind = part.config.get("_class_name") or part.config["architectures"][0]
    given, again = (getattr(library, kind).from_pretrained(p) for p in (ROOT / name, tmp_path))
    expected, found = given.state_dict(), again.state_dict()
    assert expected.keys() == found.keys()
    assert all((expected[key] == found[key]).all() for key in expected)


@pytest.mark.parametrize("name", ["resnet50", "inception_v3"])
def test_a_classifier_of_torchvision_answers_as_in_pytorch(name):
    import torch
    import torchvision

    torch.manual_seed(0)
    options = {"aux_logits": True, "init_weights": False} if name == "inception_v3" else {}
    model = getattr(torchvision.models, name)(weights=None, **options).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, std=0.1)
    kind = {"resnet50": "ResNet50", "inception_v3": "InceptionV3"}[name]
    config = {"_class_name": kind, "num_classes": 1000}
    config |= {"fid": False} if name == "inception_v3" else {}
    part = assemble(config, {k: v.numpy() for k, v in model.state_dict().items()})
    image = np.random.default_rng(0).uniform(-1, 1, (2, 75, 75, 3)).astype(np.float32)
    given = (image + 1) / 2
    given = (given - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225) if name == "resnet50" else image
    with torch.no_grad():
        expected = model(torch.tensor(given, dtype=torch.float32).permute(0, 3, 1, 2)).numpy()
    with jax.default_matmul_precision("highest"):
        found = jax.jit(part.net.apply)(part.params, jnp.asarray(image)).logits
    assert gap(found, expected) < 1e-4 * max(1.0, float(np.abs(expected).max()))


@pytest.mark.parametrize("owner", ["", "first_stage_model."])
def test_the_layout_of_latent_diffusion_is_read_as_diffusers_reads_it(owner):
    """The names of the original code for a small pyramid of four levels, made here."""
    import torch
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    widths, draw = (4, 4, 8, 8), np.random.default_rng(0).normal
    config = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "norm_num_groups": 2,
    }
    tensors = {owner + k: draw(size=s).astype(np.float32) for k, s in _original(widths).items()}
    theirs = convert_ldm_vae_checkpoint(
        {k: torch.tensor(v) for k, v in tensors.items()}, config | {"layers_per_block": 1}
    )
    more = {"model.diffusion_model.x": np.zeros(1), "betas": np.zeros(1)} if owner else {}
    ours = tensors_of(assemble(config, tensors | more).params)
    assert ours.keys() == theirs.keys()
    assert all((ours[k] == v.numpy().reshape(ours[k].shape)).all() for k, v in theirs.items())


def _original(widths):
    """Name -> shape of an autoencoder of latent diffusion with one block a level."""
    shapes = {}

    def conv(name, a, b, size=3):
        shapes.update({f"{name}.weight": (b, a, size, size), f"{name}.bias": (b,)})

    def norm(name, a):
        shapes.update({f"{name}.weight": (a,), f"{name}.bias": (a,)})

    def block(name, a, b):
        norm(f"{name}.norm1", a)
        conv(f"{name}.conv1", a, b)
        norm(f"{name}.norm2", b)
        conv(f"{name}.conv2", b, b)
        if a != b:
            conv(f"{name}.nin_shortcut", a, b, 1)

    last = len(widths) - 1
    for half, depth, way, change in (
        ("encoder", 1, "down", "downsample"),
        ("decoder", 2, "up", "upsample"),
    ):
        for n in (1, 2):
            block(f"{half}.mid.block_{n}", widths[-1], widths[-1])
        norm(f"{half}.mid.attn_1.norm", widths[-1])
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{half}.mid.attn_1.{part}", widths[-1], widths[-1], 1)
        order = range(last + 1) if half == "encoder" else range(last, -1, -1)
        before = widths[order[0]]
        for i in order:
            for j in range(depth):
                block(f"{half}.{way}.{i}.block.{j}", before, widths[i])
                before = widths[i]
            if i != order[-1]:
                conv(f"{half}.{way}.{i}.{change}.conv", widths[i], widths[i])
    conv("encoder.conv_in", 3, widths[0])
    norm("encoder.norm_out", widths[-1])
    conv("encoder.conv_out", widths[-1], 8)
    conv("decoder.conv_in", 4, widths[-1])
    norm("decoder.norm_out", widths[0])
    conv("decoder.conv_out", widths[0], 3)
    conv("quant_conv", 8, 8, 1)
    conv("post_quant_conv", 4, 4, 1)
    return shapes
