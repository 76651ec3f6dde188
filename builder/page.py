"""Parts of a page that needs no other file and no network: escaping, numbers, tables, and its looks."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_STYLE = """
:root{color-scheme:light dark;--ink:#1b2127;--dim:#5a6570;--paper:#fff;--soft:#f3f5f7;--line:#d5dbe1;
--ref:#1d5fbf;--cand:#c2500a;--good:#17753a;--bad:#b3201f;
--c0:#1d5fbf;--c1:#c2500a;--c2:#0f7b6c;--c3:#8a3fa0;--c4:#8a6d00;--c5:#5a6570}
@media (prefers-color-scheme:dark){:root{--ink:#e4e8ec;--dim:#9aa5b1;--paper:#14181c;--soft:#1e242a;--line:#39424c;
--ref:#78aef5;--cand:#f59a55;--good:#57c785;--bad:#ff8078;
--c0:#78aef5;--c1:#f59a55;--c2:#4fc7b4;--c3:#d297e6;--c4:#d9bc4a;--c5:#9aa5b1}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:74rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 1rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.2rem 0 .3rem}
h3{font-size:1rem;margin:1.4rem 0 .3rem}
p{margin:.3rem 0 .7rem;max-width:60rem}
ul{margin:.3rem 0 .8rem;padding-left:1.2rem}
p,li,code{overflow-wrap:anywhere}
li{max-width:60rem}
.dim,p,figcaption,dt{color:var(--dim)}
.verdict{background:var(--soft);border-left:5px solid var(--good);border-radius:0 6px 6px 0;
padding:.8rem 1rem;margin-bottom:.8rem}
.verdict>:last-child{margin-bottom:0}
.verdict.failed{border-color:var(--bad)}
.verdict p,.verdict li,figcaption b{color:var(--ink)}
.verdict strong{color:var(--good)}
.verdict.failed strong,.over{color:var(--bad)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:1rem 0}
dd{margin:0;overflow-wrap:anywhere}
.wide,pre{overflow-x:auto}
.wide{margin-bottom:.6rem}
pre{background:var(--soft);padding:.7rem .9rem;border-radius:6px;font:13px/1.5 ui-monospace,monospace}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .6rem;text-align:right;white-space:nowrap}
th{font-weight:600;color:var(--dim)}
th.group{text-align:center;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left;padding-left:0}
thead tr+tr th:first-child{text-align:right;padding-left:.6rem}
tbody{border-top:1px solid var(--line)}
.steps th:nth-child(2),.steps td:nth-child(2){text-align:left;white-space:normal;min-width:14rem}
svg{display:block;width:100%;height:auto;font:11px system-ui,sans-serif}
svg.axes{position:absolute;width:0;height:0}
svg.stems{max-width:46rem;font-size:12px}
text{fill:var(--ink)}
#axes text,.note,.scale{fill:var(--dim)}
#axes path{stroke:var(--line);fill:none}
polyline{fill:none;stroke-width:2;stroke-linejoin:round}
polyline.ref{stroke:var(--ref)}
polyline.cand{stroke:var(--cand);stroke-dasharray:5 3}
.limit{stroke:var(--bad);stroke-dasharray:3 3}
.stem path{stroke:var(--dim);stroke-width:2}
.stem circle{fill:var(--paper);stroke:var(--dim);stroke-width:2}
.stem.chosen path{stroke:var(--cand)}
.stem.chosen circle{fill:var(--cand);stroke:var(--cand)}
.key{color:var(--ink);padding-left:2.1rem;background:linear-gradient(var(--ref),var(--ref)) 0 55%/1.7rem 2px no-repeat}
.key.cand{background-image:repeating-linear-gradient(90deg,var(--cand) 0 5px,transparent 5px 8px)}
.chart{margin:.8rem 0 1.2rem}
.chart svg{font-size:12px}
.wide>svg[role=img]{min-width:34rem}
.panels svg[role=img]{min-width:0;max-width:20rem;margin:0 auto}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1.2rem;list-style:none;margin:0 0 .3rem;padding:0}
.legend li{display:flex;align-items:center;gap:.45rem}
svg.swatch{width:34px;height:14px;flex:none}
.grid{stroke:var(--line);fill:none}
.s0{color:var(--c0)}.s1{color:var(--c1)}.s2{color:var(--c2)}.s3{color:var(--c3)}.s4{color:var(--c4)}.s5{color:var(--c5)}
path.marker{fill:currentColor;stroke:var(--paper);stroke-width:1}
rect[class^=s]{fill:currentColor;print-color-adjust:exact}
polyline[class^=s]{stroke:currentColor}
polyline.s1{stroke-dasharray:7 4}
polyline.s2{stroke-dasharray:2 3}
polyline.s3{stroke-dasharray:9 3 2 3}
polyline.s4{stroke-dasharray:14 4}
polyline.s5{stroke-dasharray:4 6}
.hatch{stroke:var(--paper);stroke-width:1.3;fill:none}
.mark{stroke:var(--dim);stroke-dasharray:1 3;fill:none}
.whisker{stroke:var(--ink);stroke-width:1.3;fill:none}
.halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
text.over{fill:var(--bad)}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1rem}
figure{margin:0}
figcaption{overflow-wrap:anywhere}
.panels figcaption{text-align:center}
.pair{margin:1.2rem 0}
.sides{display:grid;grid-template-columns:1fr 1fr;gap:.6rem;margin-top:.3rem}
.sides img{display:block;width:100%;height:auto}
.sides p{margin:.1rem 0;text-align:center}
@media (max-width:40rem){.sides{grid-template-columns:1fr}
th,td,thead tr+tr th:first-child{padding:.2rem .35rem}
td:first-child{white-space:normal;overflow-wrap:anywhere;min-width:6rem;padding-left:0}}
@media print{.pair,.panels figure{break-inside:avoid}}
"""


def escaped(text: object) -> str:
    """Text for HTML and its attributes: no markup, and no character that is invisible or turns the line around."""
    return html.escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text)))


def figure(value: float | None, digits: int = 3) -> str:
    """A number with a real minus and no minus zero; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    # Adding 0 turns -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def document(title: str, sections: Iterable[str]) -> str:
    """The page of these pieces of HTML; nothing on it may run, and nothing may be loaded."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n<h1>{escaped(title)}</h1>\n"
        + "\n".join(filter(None, sections))
        + "\n</main></body></html>\n"
    )


def definitions(rows: Mapping[str, object]) -> str:
    """Names and what they stand for, as text."""
    lines = (f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in rows.items())
    return f"<dl>{''.join(lines)}</dl>"


def row(cells: Iterable[str], tag: str = "td") -> str:
    """A line of a table, of pieces of HTML."""
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def table(head: str, groups: Iterable[Iterable[Sequence[str]]], kind: str = "") -> str:
    """A table of groups of lines, with a rule between the groups; it scrolls by itself where it is too wide."""
    bodies = "".join(f"<tbody>{''.join(map(row, group))}</tbody>" for group in groups)
    return f'<div class="wide"><table class="{kind}"><thead>{head}</thead>{bodies}</table></div>'
