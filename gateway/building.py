"""Makes the adapter of a configuration entry: in this process, or behind a process of its own."""

from __future__ import annotations

from adapters.base import Adapter, AdapterConfig, AdapterContext

from . import catalogue


def build_adapter(config: AdapterConfig, context: AdapterContext) -> Adapter:
    """The adapter as `isolation` says. Raises ConfigError; that of an isolated adapter comes when it connects."""
    if config.isolation == "process":
        from .isolation.adapter import IsolatedAdapter

        return IsolatedAdapter(config, context)
    return build_here(config, context)


def build_here(config: AdapterConfig, context: AdapterContext) -> Adapter:
    """The adapter in this process. Raises ConfigError."""
    adapter: Adapter = catalogue.plugin("adapters", config.kind).build(config, context)
    return adapter
