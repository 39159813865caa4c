"""`isolation: process`: an adapter in a process of its own, with a memory limit, behind the same contract.

`adapter` is the gateway's side (an `Adapter` like any other), `process` holds the child, `child` is what runs in it. Between them go
`frames`: Arrow record batches and log records one way, a few commands the other. What a child does wrong costs only itself.
"""
