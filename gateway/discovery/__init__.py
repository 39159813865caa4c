"""Tags that a device or an engineering tool told us of, into a tag file that people edit: found, compared, written.

`points` turns what a walk yields into entries, `difference` compares them with the file, `yaml_file` and `csv_file` edit the file where it
changes and leave every other byte, `memory` keeps what was found last time, `writing` does all of it in order.
"""
