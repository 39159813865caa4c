"""The data behind `units`: UCUM's prefixes and atoms, and how people in plants spell units.

Source: The Unified Code for Units of Measure, version 2.2, case-sensitive codes; the atoms that industry, energy, water and
laboratory devices use. A spelling maps to a code; the first spelling of a line is the one shown to people.
"""

from __future__ import annotations

from typing import Final

PREFIXES: Final = tuple("da Ki Mi Gi Ti Y Z E P T G M k h d c m u n p f a z y".split())
"""Two-letter prefixes first: the parser takes the first that fits."""

METRIC_ATOMS: Final = frozenset(
    "m s g rad K C cd mol sr Hz N Pa J W A V F Ohm S Wb Cel T H lm lx Bq Gy Sv l L ar t bar u eV pc gf Ky Gal dyn erg P Bi St Mx "
    "G Oe Gb sb Lmb ph Ci R RAD REM st bit By Bd mho cal cal_IT cal_th tex kat U osm eq g% [c] [h] [k] [eps_0] [mu_0] [e] [G] [g] "
    "m[H2O] m[Hg] B Np B[SPL] B[V] B[mV] B[uV] B[W] B[kW] [iU] [ly]".split()
)
"""Atoms that take a prefix."""

ATOMS: Final = METRIC_ATOMS | frozenset(
    "10* 10^ [pi] % [ppth] [ppm] [ppb] [pptr] gon deg ' '' min h d wk mo a a_t a_j a_g AU atm att [lbf_av] [pH] bit_s circ sph "
    "[in_i] [ft_i] [yd_i] [mi_i] [fth_i] [nmi_i] [kn_i] [mil_i] [sin_i] [sft_i] [syd_i] [cin_i] [cft_i] [cyd_i] [hd_i] [ft_us] "
    "[mi_us] [acr_us] [acr_br] [gal_us] [qt_us] [pt_us] [foz_us] [bbl_us] [bu_us] [gal_br] [pt_br] [gr] [lb_av] [oz_av] [ston_av] "
    "[lton_av] [stone_av] [lb_tr] [oz_tr] [car_m] [degF] [degR] [degRe] [Btu] [Btu_IT] [Btu_th] [HP] [den] [in_i'H2O] [in_i'Hg] "
    "[psi] Ao b [mesh_i]".split()
)

AMBIGUOUS: Final = {
    "C": "write '°C' for degrees Celsius, 'A.s' for coulombs",
    "F": "write '°F' for degrees Fahrenheit, 'A.s/V' for farads",
}
"""One letter that UCUM reads as an electrical unit and nearly everybody writes for a temperature: refused, never guessed."""

OVERRIDES: Final = frozenset("pH ft ft2 ft3 pc pu g0 kph mph kB MB GB TB KiB MiB GiB U/min W/m2.K 1/s 1/min 1/h".split())
"""Spellings that are UCUM codes of something no plant means (picohenry, femtotonne, parsec, kilobel): what people mean wins.
The last three only lose their leading 1."""

_LINES: Final = """
1                 = 1, -, none, unitless
%                 = %, percent, pct
[ppth]            = ‰, permille
[ppm]             = ppm
[ppb]             = ppb
[pH]              = pH
%{RH}             = %RH, % RH, % r.H., rH%
%{vol}            = vol%, %vol, Vol.-%, % vol
%{wt}             = wt%, %wt
%{mol}            = mol%
%{LEL}            = %LEL, % LEL
Cel               = °C, degC, deg C, ° C, celsius, degrees C, degree C, deg. C, degrees celsius
[degF]            = °F, degF, deg F, ° F, fahrenheit, degrees F, degrees fahrenheit
[degR]            = °R
K                 = K, kelvin, deg K, degK, °K
s                 = s, sec, second, seconds, 秒
min               = min, minute, minutes, mins, 分
h                 = h, hr, hrs, hour, hours, 時間
d                 = d, day, days, 日
wk                = wk, week, weeks
mo                = mo, month, months
a                 = a, year, years, yr
m                 = m, metre, meter, metres, meters
mm                = mm, millimetre, millimeter
um                = µm, micron, microns
nm                = nm
km                = km
[in_i]            = in, inch, inches, "
[ft_i]            = ft, foot, feet
[yd_i]            = yd, yard, yards
[mi_i]            = mi, mile, miles
[mil_i]           = mil, mils
[nmi_i]           = nmi
[kn_i]            = kn, knot, knots
[ft_i]2           = ft², sq ft, sqft
[in_i]2           = in², sq in, sqin
[ft_i]3           = ft³, cu ft, cuft, cf
har               = ha, hectare
m2                = m², sq m, sqm
m3                = m³, cbm, cu m
cm3               = cm³, cc, ccm
l                 = l, ltr, litre, liter, litres, liters, lit
hl                = hl
[gal_us]          = gal, gallon, gallons
[gal_br]          = gal (UK), imp gal
[bbl_us]          = bbl, barrel, barrels
m3{normal}        = Nm³, m³N, m³(N), m³ n
m3{standard}      = Sm³, m³(S)
l{normal}         = Nl, NL, ln
l{standard}       = Sl, SL
cm3{standard}/min = sccm
l{standard}/min   = slm, slpm, sl/min
l{normal}/min     = Nl/min, nlpm
[ft_i]3/min       = cfm, acfm
[ft_i]3{standard}/min = scfm
[ft_i]3{standard} = scf
[gal_us]/min      = gpm, usgpm
l/min             = l/min, lpm
l/h               = l/h, lph
m3/h              = m³/h, cmh, m³/hr
km/h              = km/h, kph, kmh
[mi_i]/h          = mph
[ft_i]/min        = fpm
[ft_i]/s          = fps
[in_i]/s          = ips
mm/s{rms}         = mm/s RMS, mm/s rms, mm/s (rms), mm/s r.m.s.
[g]               = gₙ, g_n, g0, g-force
[g]{rms}          = gₙ RMS, g RMS, g rms, grms
g                 = g, gram, grams
kg                = kg, kilo, kilogram, kilograms, kgs
t                 = t, tonne, tonnes
[lb_av]           = lb, lbs, pound, pounds, lbm
[oz_av]           = oz, ounce, ounces
[ston_av]         = ton (US), short ton
[lton_av]         = ton (UK), long ton
N                 = N, newton, newtons
[lbf_av]          = lbf
N.m               = Nm, newton metre, newton meter
kN.m              = kNm
mN.m              = mNm
cN.m              = cNm
N.mm              = Nmm
MN.m              = MNm
[ft_i].[lbf_av]   = ft·lbf, ft-lb, ft lb, ftlb, ft-lbf, lbf-ft, lb-ft
[in_i].[lbf_av]   = in·lbf, in-lb, in lb, in-lbf
Pa                = Pa, pascal
bar{gauge}        = barg, bar(g), bar (g), barü, bar g
bar{absolute}     = bara, bar(a), bar (a), bar a
mbar{gauge}       = mbarg, mbar(g)
mbar{absolute}    = mbara, mbar(a)
kPa{gauge}        = kPag, kPa(g), kPa g, kPaG
kPa{absolute}     = kPaa, kPa(a), kPa abs
MPa{gauge}        = MPag, MPa(g), MPaG
[psi]             = psi, lbf/in², lb/in²
[psi]{gauge}      = psig, psi(g)
[psi]{absolute}   = psia, psi(a)
mm[Hg]            = mmHg, mm Hg
mm[H2O]           = mmH₂O, mmWC, mm H₂O, mmWS, mmAq
cm[H2O]           = cmH₂O
m[H2O]            = mH₂O, mWC, mWS
[in_i'Hg]         = inHg, in Hg
[in_i'H2O]        = inH₂O, inWC, in H₂O, in wc
atm               = atm
att               = att
{rev}             = rev, revs, revolution, revolutions
{rev}/min         = rpm, r/min, U/min, rev/min, r.p.m.
{rev}/s           = rps, r/s
{strokes}         = strokes, stroke
{strokes}/min     = spm
{cycles}          = cycles, cycle
{cycles}/min      = cpm
{count}           = counts, count, cnt, 回
{pulses}          = pulses, pulse, imp
{pcs}             = pcs, pc, pce, piece, pieces, ea, each, 個
{parts}           = parts, part
{steps}           = steps
{pu}              = pu, p.u., per unit
/s                = 1/s
/min              = 1/min
/h                = 1/h
Hz                = Hz, hertz
deg               = °, degree, degrees, degs
V.A               = VA
kV.A              = kVA
MV.A              = MVA
V.A{reactive}     = var, VAr, VAR
kV.A{reactive}    = kvar, kVAr, kVAR
MV.A{reactive}    = Mvar, MVAr, MVAR
W.h               = Wh
kW.h              = kWh, kW-h, kW-hr
MW.h              = MWh
GW.h              = GWh
V.A.h             = VAh
kV.A.h            = kVAh
MV.A.h            = MVAh
V.A{reactive}.h   = varh, VArh, VARh
kV.A{reactive}.h  = kvarh, kVArh, kVARh
MV.A{reactive}.h  = Mvarh, MVArh
A.h               = Ah
mA.h              = mAh
W                 = W, watt, watts
[HP]              = hp
[Btu]             = Btu
[Btu]/h           = Btu/h, Btuh, Btu/hr
V                 = V, volt, volts
A                 = A, amp, amps, ampere, amperes
V{DC}             = VDC, V DC, Vdc
V{AC}             = VAC, V AC, Vac
A{AC}             = AAC, Aac
A{DC}             = ADC, Adc
Ohm               = Ω, ohm, ohms
lx                = lx, lux
lm                = lm, lumen
dB[SPL]{A}        = dB(A), dBA, dB A
dB{mW}            = dBm
Bd                = Bd, baud
By                = byte, bytes
kBy               = kB
MBy               = MB
GBy               = GB
TBy               = TB
KiBy              = KiB
MiBy              = MiB
GiBy              = GiB
bit               = bit, bits
bit/s             = bit/s, bps
kbit/s            = kbit/s, kbps
Mbit/s            = Mbit/s, Mbps
P                 = P, poise
cP                = cP, centipoise
cSt               = cSt, centistokes
W/(m2.K)          = W/(m²·K), W/m²K, W/m²·K
kJ/(kg.K)         = kJ/(kg·K), kJ/kgK
m/s2              = m/s²
{NTU}             = NTU
{FNU}             = FNU
{Brix}            = °Bx, Brix, °Brix
{dH}              = °dH
{HRC}             = HRC
"""


def _table() -> dict[str, tuple[str, ...]]:
    """code -> spellings, the shown one first."""
    found: dict[str, tuple[str, ...]] = {}
    for line in _LINES.strip().splitlines():
        code, spellings = line.split(" = ", 1)
        found[code.strip()] = tuple(text.strip() for text in spellings.split(", "))
    return found


TABLE: Final = _table()

FOLDED: Final = frozenset(
    "percent rpm psi psig psia ppm ppb bar mbar barg bara hz khz degc degf celsius fahrenheit kelvin kg kgs kw kwh kva kpa sec "
    "secs min minute hour hours hr hrs day days pcs pc ea each pieces counts cycles strokes cfm scfm gpm lpm slpm sccm lux baud "
    "ampere amps amp volt volts watt watts ohm ohms litre liter inch feet lbs kvar mm cm km ntu btu mph kph hp l/min m3/h km/h "
    "mm/s mmhg mmh2o inh2o inhg micron microns".split()
)
"""Spellings taken in any letter case, since no prefix of another meaning hides behind the case (unlike mW and MW)."""
