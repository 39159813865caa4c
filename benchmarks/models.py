"""How good and how fast the models are: one table per data set, each with its protocol.

`--data DIR` names a directory with any of `nab/`, `skab/`, `cmapss/` and `ai4i/`; thresholds and trained models come from
`--calibrate DIR2`, by default from DIR by cross-validation. What DIR does not hold is left out. `plant` and `speed` need no data.
`--docs` writes each table as printed between its markers in docs/models.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import model_sets
from report import Table, into_page, markdown, parser, publish_tables

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"


def main() -> None:
    options = parser(str(__doc__))
    options.add_argument("--calibrate", type=Path, metavar="DIR", help="directory that thresholds and trained models come from")
    options.add_argument("--only", choices=model_sets.names(), action="append", help="one data set; may be repeated")
    options.add_argument("--docs", action="store_true", help="also write the tables into docs/models.md")
    asked = options.parse_args()
    calibrate = asked.calibrate or asked.data
    tables: list[Table] = []
    for name in asked.only or model_sets.names():
        benchmark = model_sets.load(name)
        lacking = [
            f"{folder or '--data'} holds no {pattern}"
            for folder in dict.fromkeys((asked.data, calibrate))
            for pattern in model_sets.missing(benchmark, folder)
        ]
        if lacking:
            print(f"{name}: left out, {lacking[0]}", file=sys.stderr)
            continue
        here = asked.data or Path()
        found = benchmark.run(here, calibrate or here, asked.quick)
        protocol = " ".join((benchmark.__doc__ or "").split("\n\n", 1)[-1].split())
        tables.append(Table(name, " ".join((protocol, *found.notes)), found.figures))
        print(markdown(tables[-1]), flush=True)
    publish_tables(tables, asked)
    if asked.docs:
        into_page(tables, PAGE)


if __name__ == "__main__":
    main()
