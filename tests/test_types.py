"""Records are pytrees whose static fields retrace, and NOWHERE says what it cannot give."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxdiff.types import NOWHERE, Batch, Estimate, GridOnly, Now, Site, number, record, static


@record
class _Guide:
    scale: jax.Array
    order: int = static(default=1)


def test_records_are_frozen_pytrees():
    guide = _Guide(jnp.ones(2), order=3)
    leaves, structure = jax.tree.flatten(guide)
    assert len(leaves) == 1 and jax.tree.unflatten(structure, leaves).order == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        guide.order = 2  # pyright: ignore[reportAttributeAccessIssue]


def test_only_static_fields_retrace():
    traces = []

    @jax.jit
    def apply(guide):
        traces.append(guide.order)
        return guide.scale * guide.order

    for scale, order in ((1.0, 1), (2.0, 1), (2.0, 2)):
        assert float(apply(_Guide(number(scale), order))) == scale * order
    assert traces == [1, 2]


def test_number_has_one_type():
    made = [number(value) for value in (1, 1.0, True, jnp.int32(2), jnp.ones(()))]
    assert len({(each.dtype, each.weak_type) for each in made}) == 1


def test_nowhere_names_the_field():
    assert repr(NOWHERE) == "NOWHERE" and not hasattr(NOWHERE, "__array__")
    for name in Now._fields:
        with pytest.raises(GridOnly, match=f"now.{name}.*`sample` or `run`"):
            getattr(NOWHERE, name)


def test_nowhere_goes_through_jit():
    @jax.jit
    def ask(now, x):
        with pytest.raises(GridOnly):
            _ = now.i
        return x

    assert float(ask(NOWHERE, 1.0)) == 1.0
    assert jax.tree.map(lambda leaf: leaf, {"now": NOWHERE})["now"] is NOWHERE


def test_tuples_have_defaults():
    batch = Batch(jnp.zeros(2))
    assert batch.cond is None and batch.row is None
    est = Estimate(jnp.zeros(2))
    assert est.var is None and est.aux == {}


def test_sites_are_hashable():
    site = Site("down/0/attn", "probs", "down", 0, 0, "self", (8, 8), 4)
    assert site in {site} and dataclasses.replace(site, index=1) not in {site}
