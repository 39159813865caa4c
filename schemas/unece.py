"""Units as OPC UA servers name them: the UNECE Recommendation 20 code inside an EUInformation, as UCUM.

Source: OPC 10000-8, 5.6.4.3 (EUInformation: the unit id is the code's characters, one byte each); UNECE Recommendation 20, Revision 17.
Codes that plants use; what is not here is told by its display name.
"""

from __future__ import annotations

from typing import Final

from .units import display, normalise

NAMESPACE: Final = "http://www.opcfoundation.org/UA/units/un/cefact"
"""The namespace in which a unit id is such a code."""

_CODES: Final = """
CEL Cel|FAH [degF]|KEL K|A48 [degR]|C62 1|P1 %|59 [ppm]|61 [ppb]|NX [ppth]|Q30 [pH]
MTR m|MMT mm|CMT cm|DMT dm|4H um|C45 nm|KMT km|INH [in_i]|FOT [ft_i]|YRD [yd_i]|SMI [mi_i]|NMI [nmi_i]
MTK m2|CMK cm2|MMK mm2|DMK dm2|FTK [ft_i]2|INK [in_i]2|HAR har
MTQ m3|CMQ cm3|DMQ dm3|MMQ mm3|LTR l|MLT ml|CLT cl|HLT hl|4G ul|FTQ [ft_i]3|INQ [in_i]3|GLL [gal_us]|GLI [gal_br]|BLL [bbl_us]
GRM g|KGM kg|MGM mg|MC ug|TNE t|LBR [lb_av]|ONZ [oz_av]|STN [ston_av]|LTN [lton_av]
SEC s|MIN min|HUR h|DAY d|WEE wk|MON mo|ANN a|C26 ms|B98 us|C47 ns
MTS m/s|2X m/min|KMH km/h|C16 mm/s|H81 mm/min|2M cm/s|HM [mi_i]/h|FR [ft_i]/min|FS [ft_i]/s|KNT [kn_i]|MSK m/s2
RPM {rev}/min|RPS {rev}/s|C94 /min|C97 /s|H10 /h|HTZ Hz|KHZ kHz|MHZ MHz|A86 GHz|2A rad/s|C81 rad|DD deg|D61 '|D62 ''
NEW N|B47 kN|B73 MN|C20 mN|NU N.m|B48 kN.m|B74 MN.m|D83 mN.m|M92 [lbf_av].[ft_i]|C78 [lbf_av]
PAL Pa|KPA kPa|MPA MPa|A97 hPa|74 mPa|BAR bar|MBR mbar|PS [psi]|ATM atm|ATT att|HN mm[Hg]|HP mm[H2O]|F79 [in_i'Hg]|C56 N/mm2
WTT W|KWT kW|MAW MW|A90 GW|C31 mW|D46 V.A|KVA kV.A|MVA MV.A|D44 V.A{reactive}|KVR kV.A{reactive}|MAR MV.A{reactive}
WHR W.h|KWH kW.h|MWH MW.h|GWH GW.h|JOU J|KJO kJ|3B MJ|GV GJ|BTU [Btu]|K3 kV.A{reactive}.h
VLT V|2Z mV|KVT kV|D82 uV|AMP A|4K mA|B84 uA|B22 kA|OHM Ohm|B49 kOhm|B75 MOhm|SIE S|C27 mS|B99 uS|G42 uS/cm|AMH A.h|E09 mA.h
4O uF|C41 nF|4T pF|81 H|C14 mH|WEB Wb|D33 T|C29 mT
MQH m3/h|G53 m3/min|G52 m3/d|MQS m3/s|L2 l/min|E32 l/h|G51 l/s|41 ml/min|5A [bbl_us]/min|G2 [gal_us]/min|2L [ft_i]3/min
KGS kg/s|E93 kg/h|F31 kg/min|E18 t/h|F28 g/min|F27 g/h|F29 g/s|4M mg/h
KMQ kg/m3|GL g/l|M1 mg/l|GP mg/m3|GQ ug/m3|23 g/cm3|B35 kg/l|A93 g/m3
C7 cP|C24 mPa.s|C65 Pa.s|4C cSt|S4 m2/s|C17 mm2/s
LUX lx|LUM lm|CDL cd|2N dB|4Q kat
AD By|2P kBy|4L MBy|E34 GBy|A99 bit|B10 bit/s
E01 N/cm2|B61 lm/W|D54 W/m2|D55 W/(m2.K)|D53 W/(m.K)|B11 J/(kg.K)
EA {pcs}|H87 {pcs}
"""


def _table() -> dict[str, str]:
    found = {}
    for entry in _CODES.split("\n"):
        for pair in filter(None, entry.split("|")):
            code, unit = pair.split(" ", 1)
            found[code] = unit
    return found


UNITS: Final = _table()
"""UNECE code -> UCUM."""


def code_of(unit_id: int) -> str:
    """The UNECE code in a unit id: 4408652 -> `CEL`; empty for a number that holds none."""
    if not 0 < unit_id < 1 << 32:
        return ""
    raw = unit_id.to_bytes(4).lstrip(b"\0")
    return raw.decode("ascii") if raw.isalnum() and raw.isascii() else ""


def unit_of(namespace: str, unit_id: int, *names: str) -> str | None:
    """The unit of an EUInformation as people write it, None where it is not known: by its code, else by the first of its names
    (display name, description) that is a unit."""
    code = code_of(unit_id) if namespace in (NAMESPACE, "") else ""
    if code in UNITS:
        return display(UNITS[code])
    for name in names:
        try:
            return display(normalise(name))
        except ValueError:
            continue
    return None
