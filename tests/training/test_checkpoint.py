"""Checkpoints: bit for bit, on any sharding, and nothing damaged is used."""

import errno
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import training
from jaxdiff.training import checkpoint, seal

ADAM = optax.adam(0.1)


def make_params(key, width=8):
    return {"a": {"kernel": jax.random.normal(key, (width, 4))}, "b": jnp.arange(4.0)}


def start(seed=0, width=8, optimizer=ADAM):
    key = jax.random.key(seed)
    state = training.create(make_params(key, width), optimizer, jax.random.fold_in(key, 1))
    return state._replace(step=jnp.asarray(7, jnp.int32))


def plain(tree):
    is_key = lambda a: jnp.issubdtype(a.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(a) if is_key(a) else a) for a in jax.tree.leaves(tree)]


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(plain(a), plain(b), strict=True):
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


@pytest.fixture
def folder(tmp_path):
    opened = training.open_checkpoints(tmp_path / "ckpt")
    yield opened
    checkpoint.close(opened)


def test_round_trip(folder):
    assert training.latest(folder) is None
    training.save(folder, start(), {"data": [1, 2], "hash": "abc"}, wait=True)
    assert training.latest(folder) == 7
    state, extra = training.restore(folder, start(seed=1))
    assert_same_bits(state, start())
    assert extra == {"data": [1, 2], "hash": "abc"}
    assert jax.random.key_impl(state.key) == jax.random.key_impl(start().key)


def test_restored_state_is_as_free_as_the_one_it_replaces(folder):
    """An array that no one put on a device may still move to a mesh; a restored one as well."""
    training.save(folder, start(), wait=True)
    state, _ = training.restore(folder, start())
    assert not state.params["b"].committed
    training.place_state(training.mesh(), state)


def test_save_copies_before_it_returns(folder):
    """The memory of the state may be reused at once, while the disk is still being written."""
    state = start(width=2**15)
    wipe = jax.jit(
        lambda s: s._replace(params=jax.tree.map(jnp.zeros_like, s.params)), donate_argnums=0
    )
    before = plain(state)
    training.save(folder, state)
    wipe(state)
    restored, _ = training.restore(folder, start(seed=1, width=2**15))
    for x, y in zip(plain(restored), before, strict=True):
        assert x.tobytes() == y.tobytes()


def test_restore_to_another_sharding(folder):
    saved = training.place_state(training.mesh(fsdp=8), start(), min_size=1)
    training.save(folder, saved, wait=True)
    mesh = training.mesh(fsdp=2)
    shapes = jax.eval_shape(start)
    like = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
        shapes,
        training.state_shardings(mesh, shapes, min_size=1),
    )
    state, _ = training.restore(folder, like)
    assert_same_bits(state, start())
    kernel = state.params["a"]["kernel"]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec("fsdp")
    assert kernel.addressable_shards[0].data.shape == (4, 4)
    single, _ = training.restore(folder, start(seed=3))
    assert_same_bits(single, start())


def test_every_flipped_byte_is_found(folder):
    training.save(folder, start(), {"a": 1}, wait=True)
    root = folder.folder / "step_7"
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    assert len(files) > 5 and root / seal.NAME in files
    for path in files:
        good = path.read_bytes()
        for place in {0, len(good) // 2, len(good) - 1}:
            bad = bytearray(good)
            bad[place] ^= 0x10
            path.write_bytes(bytes(bad))
            with pytest.raises(ValueError, match=rf"step 7 is damaged: {path}"):
                training.restore(folder, start())
        path.write_bytes(good)
    assert_same_bits(training.restore(folder, start(seed=1))[0], start())


def test_missing_and_surplus_files_are_found(folder):
    training.save(folder, start(), wait=True)
    root = folder.folder / "step_7"
    (root / "stray").write_text("x")
    with pytest.raises(ValueError, match=r"damaged: .*stray"):
        training.restore(folder, start())
    (root / "stray").unlink()
    (root / "_METADATA").unlink()
    with pytest.raises(ValueError, match=r"damaged: .*_METADATA"):
        training.restore(folder, start())


def test_another_architecture_is_refused_with_its_paths(folder):
    training.save(folder, start(), wait=True)
    with pytest.raises(
        ValueError, match=r"params/a/kernel: float32\[8, 4\] in the checkpoint"
    ) as e:
        training.restore(folder, start(width=6))
    assert "step_7" in str(e.value) and "params/b" not in str(e.value)
    with pytest.raises(ValueError, match="opt_state/0/mu/a/kernel: surplus"):
        training.restore(folder, start(optimizer=optax.sgd(0.1)))
    other = start()
    grown = other._replace(params=other.params | {"new": jnp.ones(2)})
    with pytest.raises(ValueError, match="params/new: missing in the checkpoint"):
        training.restore(folder, grown)
    bare = other._replace(key=jnp.zeros(2, jnp.uint32))
    with pytest.raises(ValueError, match=r"key: key<fry>\[\] in the checkpoint"):
        training.restore(folder, bare)


def test_keeps_the_latest_and_every_tenth(tmp_path):
    opened = training.open_checkpoints(tmp_path, keep=2, every=10)
    for step in (5, 10, 15, 20, 25):
        training.save(opened, start()._replace(step=jnp.asarray(step)))
    checkpoint.close(opened)
    assert checkpoint.steps(opened) == [10, 20, 25]


def test_saving_a_step_again_replaces_it(folder):
    training.save(folder, start(seed=0), wait=True)
    training.save(folder, start(seed=5), wait=True)
    assert_same_bits(training.restore(folder, start())[0], start(seed=5))
    assert [p.name for p in folder.folder.iterdir()] == ["step_7"]


def test_unfinished_saves_do_not_count_and_are_cleared(folder):
    training.save(folder, start(), wait=True)
    mine = folder.folder / "pictures"
    for name in ("step_8.orbax-checkpoint-tmp", "step_9", "pictures", "step_notes"):
        (folder.folder / name).mkdir()
    assert training.latest(folder) == 7
    training.save(folder, start()._replace(step=jnp.asarray(10)), wait=True)
    names = sorted(p.name for p in folder.folder.iterdir())
    assert names == ["pictures", "step_10", "step_7", "step_notes"] and mine.exists()


def test_a_save_killed_while_replacing_loses_nothing(folder):
    training.save(folder, start(), wait=True)
    (folder.folder / "step_7").rename(folder.folder / "step_7.replaced")
    (folder.folder / "step_7").mkdir()
    assert training.latest(folder) is None
    training.save(folder, start()._replace(step=jnp.asarray(8)), wait=True)
    assert checkpoint.steps(folder) == [7, 8]
    assert_same_bits(training.restore(folder, start(seed=1), step=7)[0], start())


def test_no_such_checkpoint(folder):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step None .* there are \[\]"):
        training.restore(folder, start())
    training.save(folder, start(), wait=True)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 3 .* there are \[7\]"):
        training.restore(folder, start(), step=3)


def test_a_full_disk_is_named_and_harms_nothing(folder, monkeypatch):
    training.save(folder, start(), wait=True)
    later = start()._replace(step=jnp.asarray(8))
    free = shutil.disk_usage(folder.folder)._replace(free=10)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: free)
        with pytest.raises(OSError, match=rf"no space left in {folder.folder} .* \d+ bytes") as e:
            training.save(folder, later, wait=True)
    assert e.value.errno == errno.ENOSPC
    with monkeypatch.context() as patch:
        patch.setattr(seal, "write", _full)
        training.save(folder, later)
        with pytest.raises(OSError, match=r"no space left in .* step 8"):
            checkpoint.finish(folder)
    assert checkpoint.steps(folder) == [7]
    training.save(folder, later, wait=True)
    assert checkpoint.steps(folder) == [7, 8]


def _full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_extra_has_to_be_json(folder):
    with pytest.raises(TypeError, match="JSON"):
        training.save(folder, start(), {"bad": object()})


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/below cannot be written to .* name another folder"):
        training.open_checkpoints(tmp_path / "file" / "below")
    with pytest.raises(FileNotFoundError, match=r"no folder of checkpoints at .*nowhere"):
        training.open_checkpoints(tmp_path / "nowhere", read_only=True)
    with pytest.raises(ValueError, match="keep = 0"):
        training.open_checkpoints(tmp_path, keep=0)


def test_seal_is_plain_json(folder):
    training.save(folder, start(), {"a": 1}, wait=True)
    body = json.loads(json.loads((folder.folder / "step_7" / seal.NAME).read_text())["body"])
    assert body["step"] == 7 and body["extra"] == {"a": 1}
    assert body["state"]["params/b"] == ["float32", [4]]


def test_compiled_step_goes_on_from_a_restored_state(folder):
    def loss(params, key, batch):
        return jnp.mean((batch.x - params["b"][None]) ** 2), {}

    mesh = training.mesh(fsdp=2)
    fn = functools.partial(training.step, loss=loss, optimizer=ADAM)
    state = training.place_state(mesh, start(), min_size=1)
    shardings = training.state_shardings(mesh, state, min_size=1)
    run = training.compile_step(fn, mesh=mesh, shardings=shardings, donate=False)
    batch = training.place_batch(mesh, training.number(_batch()))
    training.save(folder, state)
    expected, _ = run(state, batch)
    restored, _ = training.restore(folder, state)
    assert_same_bits(run(restored, batch)[0], expected)


def _batch():
    from jaxdiff.types import Batch

    return Batch(np.ones((8, 4), np.float32))
