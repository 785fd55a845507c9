"""Where a checkpoint is: a folder on this machine, or a name on the hub, fetched once and kept.

Only data are fetched: JSON, safetensors and the files of tokenisers. No code and no pickle of a
checkpoint is ever downloaded.
"""

import pathlib
import re
from collections.abc import Sequence

from jaxdiff.pretrained.files import sha256_of

_DATA = ("*.json", "*.txt", "*.model")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def locate(
    name: str | pathlib.Path,
    *,
    variant: str | None = None,
    revision: str | None = None,
    parts: Sequence[str] = (),
    offline: bool = False,
) -> pathlib.Path:
    """The folder of a checkpoint.

    Args:
      name: a folder, or "owner/name" on the hub.
      variant: "fp16" or "bf16" to fetch those weights instead of the plain ones.
      revision: a branch, tag or commit of the hub.
      parts: subfolders to fetch, by default all.
      offline: take what was kept and ask nobody.

    Raises:
      ValueError: if it is neither a folder nor a name, or can be neither found nor fetched; the
        message says which files to put where.
    """
    folder = pathlib.Path(name)
    if folder.is_dir():
        return folder
    if not _NAME.fullmatch(str(name)) or str(name).startswith("."):
        raise ValueError(f"{name} is neither a folder here nor a name 'owner/name' on the hub")
    return _fetch(str(name), variant, revision, parts, offline)


def _fetch(
    name: str, variant: str | None, revision: str | None, parts: Sequence[str], offline: bool
) -> pathlib.Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    weights = f"*.{variant}*.safetensors" if variant else "*.safetensors"
    wanted = [*_DATA, weights]
    if parts:
        wanted = [f"{part}/{pattern}" for part in parts for pattern in wanted] + ["*.json"]
    try:
        found = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=wanted,
            ignore_patterns=None if variant else ["*.fp16.*", "*.bf16.*", "*non_ema*"],
            local_files_only=offline,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(_advice(name, error)) from error
    return pathlib.Path(found)


def _advice(name: str, error: Exception) -> str:
    return (
        f"{name!r} is not kept on this machine and could not be fetched "
        f"({type(error).__name__}: {str(error).splitlines()[0][:120]}). Without a network, put its "
        "model_index.json (a pipeline) or config.json (one network), with scheduler/, the "
        "*.safetensors and the tokenisers' files, into a folder as they lie on the hub, and give "
        f"that folder's path instead of {name!r}"
    )


def verify(folder: str | pathlib.Path) -> list[str]:
    """Compare files fetched from the hub with the sha256 that the hub gave them.

    The hub's cache names a large file by its sha256; a file that is no link into that cache has
    nothing to be compared with.

    Returns:
      The names of the files that were compared.

    Raises:
      ValueError: naming a file that is damaged.
    """
    compared = []
    for path in sorted(pathlib.Path(folder).rglob("*.safetensors")):
        digest = path.resolve().name
        if not path.is_symlink() or not re.fullmatch(r"[0-9a-f]{64}", digest):
            continue
        if sha256_of(path) != digest:
            raise ValueError(f"{path} is damaged: delete {path.resolve()} and fetch it again")
        compared.append(path.name)
    return compared
