"""Tag lists of engineering tools, read into points: TIA Portal tag tables and DB sources, KEPServerEX CSV, plain tables.

A row that cannot be taken is named with its line and the reason; nothing is lost silently.
"""
