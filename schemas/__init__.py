"""What flows through genba, and the names for it.

Arrow schemas per kind of data (`kinds`), quality codes (`quality`), asset paths (`asset`), units (`units`), the error
taxonomy (`errors`), the resolved tag (`tags`), configuration value types (`values`), the plug-in value (`plugin`), spans and
commands (`span`) and the layout of the lake (`lake`). Imports nothing of ours; importing this package imports nothing heavy.
"""
