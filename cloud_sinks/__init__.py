"""Sinks deliver. `base` says what a sink is; each module or folder here is one service and the `kind:` in YAML.

`cloud_sinks.lake` is the reading side of the Parquet lake and imports light: notebooks use it without the gateway.
"""
