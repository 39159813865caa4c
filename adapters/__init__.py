"""Adapters read devices. `base` says what an adapter is; each folder here is one protocol and the `kind:` in YAML."""
