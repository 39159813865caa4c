"""Every code that `genba check` prints: what it means and the way out. `genba explain` and docs/errors.md are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Code:
    """One error (E…) or warning (W…). A code keeps its meaning for ever; a code that is no longer used is not given again."""

    code: str
    title: str
    meaning: str
    way_out: str

    def explained(self) -> str:
        """The text of `genba explain`."""
        level = "error" if self.code.startswith("E") else "warning"
        return f"{self.code} ({level}): {self.title}\n\n{self.meaning}\n\nWhat to do: {self.way_out}"


_ALL: Final = (
    Code(
        "E001",
        "a file cannot be read",
        "The configuration, or a file that it names, is not there, may not be read, or is not UTF-8 text.",
        "Check the spelling and the permissions. Paths inside a configuration are relative to the configuration file. "
        "A file from a spreadsheet must be saved as “CSV UTF-8”.",
    ),
    Code(
        "E002",
        "the file is not YAML",
        "The text breaks the rules of YAML, so nothing behind this place could be read.",
        "The usual reasons are a tab instead of blanks, a line indented differently from its neighbours, a bracket or quote that is "
        "not closed, or text with special characters (`%`, `@`, `*`, `: `) that needs quotes.",
    ),
    Code(
        "E003",
        "a key is written twice",
        "The same key stands twice in one mapping, or the same tag twice in one tag file. Only one of the two could count.",
        "Delete or rename one of them.",
    ),
    Code(
        "E004",
        "the file does not hold one document",
        "The file is empty, or a line `---` begins a second document.",
        "A configuration is one YAML mapping. `genba init` writes one to start from.",
    ),
    Code(
        "E005",
        "the file grows without end",
        "Aliases (`*name`) repeat so much, or mappings are nested so deeply, that reading them would fill the memory; or an alias contains itself.",
        "Use `templates:` for devices of the same type.",
    ),
    Code(
        "E006",
        "this part of YAML is not used here",
        "Tags such as `!include`, keys that are not plain text, and numbers that are not finite (`.nan`, `.inf`) have no meaning in a configuration.",
        "Put text that begins with `!` in quotes. To take tags from another file, write `tags: {file: tags.csv}`.",
    ),
    Code(
        "E010",
        "a key is missing",
        "An option that has no default is not written.",
        "Add the key. `docs/configuration.md` and completion in the editor (`genba init` sets it up) show what belongs where.",
    ),
    Code(
        "E011",
        "the value is of another type",
        "For example text where a number is needed, one value where a list is needed, or no value at all.",
        "Write the type that the message names.",
    ),
    Code(
        "E012",
        "unknown key",
        "There is no option of this name at this place. An option that is silently passed over would be worse than an error.",
        "Correct the spelling or the indentation, or delete the line.",
    ),
    Code(
        "E013",
        "unknown kind",
        "No adapter, model or sink of this kind is installed, or it is installed and cannot be loaded.",
        "Correct the spelling of `kind:`, or install the package that brings it into the environment of genba.",
    ),
    Code("E014", "not one of the allowed values", "The option takes only certain words.", "Write one of the words in the message."),
    Code("E015", "the value is out of range", "The number or the length is outside what the option allows.", "Keep to the bounds in the message."),
    Code(
        "E016",
        "a duration, size or rate cannot be read",
        "Durations, sizes and rates carry their unit, so that nobody has to guess: `500ms`, `2s`, `15m`, `24h`; `20 GB`, `16 MiB`; `4/day`.",
        "Write the number with its unit.",
    ),
    Code(
        "E017",
        "the name cannot be used",
        "Enterprise, site and gateway become parts of topics, file names and object names: lower-case letters, digits and inner hyphens. "
        "Names of adapters, models, sinks, assets and tags are one part of a path: no `/` at an end, no `.` or `..`, no blank at an end.",
        "Use the name that the message suggests; the name for people goes into `label`.",
    ),
    Code("E018", "the value is not usable", "The option was understood and its value makes no sense there.", "The message says what would."),
    Code(
        "E020",
        "unknown template",
        "`template:` names an entry of `templates:` that is not there, or one of another kind.",
        "Correct the name, or add the template.",
    ),
    Code(
        "E021",
        "a tag file is not usable",
        "A tag file is CSV with a header (one column per option, `name` or `tag` names the tag) or YAML like the mapping below `tags:`.",
        "Correct the file at the place that the message names.",
    ),
    Code(
        "E022",
        "options at two places",
        "A connection with `devices:` has no `tags:` of its own: they would belong to no device.",
        "Move them below one of the devices, or into a template.",
    ),
    Code(
        "E030",
        "unknown unit",
        "Units are UCUM codes or their everyday spellings: `°C`, `mm/s`, `kN`, `m³/h`, `rpm`; `1` for a number without a unit.",
        "Use the spelling that the message suggests.",
    ),
    Code(
        "E031",
        "limits in the wrong order",
        "Limits must rise: low_low < low < high < high_high. Otherwise an alarm would be always on or never come.",
        "Swap or correct them. They are in the unit of the tag, after scale and offset.",
    ),
    Code(
        "E032",
        "two tags have the same path",
        "The path enterprise/site/asset/name is a tag's identity: its topic, its rows in the lake, its alarms.",
        "Give one of the two another name, or its device another `asset`.",
    ),
    Code(
        "E033",
        "two tag paths differ only in letter case",
        "People, Windows file systems and many databases would take them for one.",
        "Write both alike, or give one of the two another name.",
    ),
    Code(
        "E034",
        "limits on a tag that is no number",
        "Limits compare numbers; this tag holds text, a waveform, or a 64-bit integer that is kept exact.",
        "Remove the limits, or change the type of the tag. For a state, give it an `enum`.",
    ),
    Code(
        "E035",
        "two adapters write one capture",
        "Each adapter writes a file of its own, and at each start keeps the former one as FILE.1. Two that share one would move it away "
        "from under each other. A `capture` in a template is that of every device that takes it over.",
        "Give each adapter a file named after it.",
    ),
    Code(
        "E040",
        "a route names an unknown sink",
        "`to:` holds names of entries below `sinks:`.",
        "Correct the name, or add the sink.",
    ),
    Code(
        "E041",
        "a kind of data ends nowhere",
        "There are sinks, and none of them takes this kind of data, so all of it would be lost without anybody having said so.",
        "Add a sink that takes it, name one in `routes:`, or say that it is meant: `- {data: telemetry, to: []}`.",
    ),
    Code(
        "E042",
        "a condition cannot be read",
        "`active_when` compares tags of the same asset: `mode == run`, `speed > 100 and not (mode == 2)`.",
        "Correct it at the place that the message names.",
    ),
    Code(
        "E043",
        "a condition names a tag that the asset does not have",
        "The model watches tags of this asset, and its condition needs a tag there; without it the model would never be active.",
        "Correct the name, narrow the patterns of the model, or add the tag to the asset.",
    ),
    Code(
        "E044",
        "a condition compares with a value that the tag never has",
        "The tag has an `enum`, and the text in the condition is none of its names; or the tag is a number without names.",
        "Use one of the names in the message.",
    ),
    Code(
        "E045",
        "two sinks keep a shadow",
        "What is desired of a gateway stands in one place: with two shadows one could ask for what the other forbids.",
        "Leave `shadow: true` to one of them.",
    ),
    Code(
        "E046",
        "a model's file cannot be used",
        "The ONNX file is not there, is damaged, or wants other inputs than the entry gives it: other shapes, other types, other tags.",
        "The message names what the file says and what the entry gives. Correct `file`, `inputs`, `window` or `output`, or export the model again.",
    ),
    Code(
        "E050",
        "a secret or variable is missing",
        "An environment variable or a file that the configuration refers to is not there.",
        "Set the variable in the service (`Environment=` or `EnvironmentFile=` of systemd) or create the file.",
    ),
    Code(
        "E051",
        "a reference cannot be read",
        "References are `${NAME}`, `${NAME:?what to do when it is missing}` and `${NAME:-default}`; `$${` stands for `${`.",
        "Correct the spelling.",
    ),
    Code(
        "E060",
        "the plug-in refuses this configuration",
        "The adapter, model or sink looked at several options together, for instance at overlapping addresses.",
        "The message says what does not fit together.",
    ),
    Code(
        "E061",
        "the plug-in failed",
        "The plug-in's own check stopped with an error of its own. That is a fault of the plug-in.",
        "Report it to the author of the plug-in, with the message and the entry.",
    ),
    Code(
        "W001",
        "leading zeros",
        "YAML reads `0102` as the number 102. Where the zeros matter (an address, a part number) they would be lost.",
        "Put it in quotes to keep the zeros, or write it without them.",
    ),
    Code(
        "W020",
        "a template is not used",
        "No adapter or device names this template.",
        "Name it with `template:`, or delete it.",
    ),
    Code(
        "W021",
        "nothing is read",
        "The connection or device has no tags, or there are no adapters at all.",
        "Add `tags:`, or delete the entry.",
    ),
    Code(
        "W030",
        "limits without a unit",
        "Nobody can tell 90 °C from 90 °F in the alarm text.",
        "Add `unit:`, or `unit: 1` if the value really has none.",
    ),
    Code(
        "W031",
        "report_at_least without a deadband",
        "Without a deadband every reading is reported anyway, so `report_at_least` changes nothing.",
        "Add `deadband:`, or delete it.",
    ),
    Code(
        "W040",
        "a pattern fits no tag",
        "`*` stands for any text within one part of a path, `?` for one character, `**` for any number of parts; enterprise and site may be left out.",
        "Correct the pattern; `genba check --tags` lists the paths of all tags.",
    ),
    Code("W041", "a model watches nothing", "The entry has no `tags:`.", "Add patterns of the tags to watch, or delete the entry."),
    Code(
        "W042",
        "data goes nowhere",
        "There are no sinks, a sink gets no data, or rules with patterns leave some tags out.",
        "Add a sink or a rule in `routes:`.",
    ),
    Code(
        "W043",
        "the status page can be reached from the network",
        "The page has no login and is meant for this machine.",
        "Listen on 127.0.0.1 and put a server with a login before it.",
    ),
    Code(
        "W050",
        "a secret or variable is missing on this machine",
        "The gateway will not start without it; checking a configuration elsewhere is fine.",
        "Nothing, if it is set where the gateway runs. `genba check --strict-env` makes it an error.",
    ),
    Code(
        "W060",
        "the plug-in warns",
        "The adapter, model or sink looked at several options together and found something that is probably not meant.",
        "The message says what.",
    ),
)  # fmt: skip
CODES: Final[Mapping[str, Code]] = {code.code: code for code in _ALL}
