"""From a prompt to a picture: what people do with a pretrained model, as functions."""

from jaxdiff.pipelines.prompts import Fragment, fragments, plain, weigh

__all__ = ["Fragment", "fragments", "plain", "weigh"]
