"""Makes the adapter of a configuration entry: in this process or behind one of its own, with a capture where one is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from adapters.base import Adapter, AdapterConfig, AdapterContext, CaptureConfig

from . import __version__, catalogue
from .handover import Entry, to_plain

if TYPE_CHECKING:
    from adapters.capture import Recorder


def build_adapter(config: AdapterConfig, context: AdapterContext) -> Adapter:
    """The adapter as `isolation` says. Raises ConfigError; that of an isolated adapter comes when it connects."""
    if config.isolation == "process":
        from .isolation.adapter import IsolatedAdapter

        return IsolatedAdapter(config, context)
    return build_here(config, context)


def build_here(config: AdapterConfig, context: AdapterContext) -> Adapter:
    """The adapter in this process. Raises ConfigError."""
    if config.capture is not None and context.tape is None:
        context = replace(context, tape=_recorder(config, context, config.capture))
    adapter: Adapter = catalogue.plugin("adapters", config.kind).build(config, context)
    return adapter


def _recorder(config: AdapterConfig, context: AdapterContext, wanted: CaptureConfig) -> Recorder:
    from adapters.capture import Recorder

    entry = Entry(context.name, config, context.tags, context.time_zone, context.base, context.directory)
    head = {"genba": __version__, "entry": to_plain(entry, secrets=False)}
    return Recorder(
        context.base / wanted.file,
        json.dumps(head, ensure_ascii=False).encode(),
        max_bytes=int(wanted.max_size),
        clock=context.clock,
        log=context.log.bind(adapter=context.name),
    )
