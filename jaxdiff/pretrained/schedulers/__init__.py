"""Scheduler configs of checkpoints: what noise does, how the network is spoken to, how to walk."""

from jaxdiff.pretrained.schedulers.read import schedule
from jaxdiff.pretrained.schedulers.schedule import Schedule

__all__ = ["Schedule", "schedule"]
