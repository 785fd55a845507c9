"""Scheduler configs of checkpoints: what noise does, how the network is spoken to, how to walk."""

from jaxdiff.pipelines.schedule import Schedule
from jaxdiff.pretrained.schedulers.read import schedule

__all__ = ["Schedule", "schedule"]
