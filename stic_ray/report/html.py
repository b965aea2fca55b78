"""Pages that need nothing else: the shell, its light and dark style for phones and screens, tables, data for scripts.

Whatever a data set, a model or a file name contributed is escaped; a policy in a page's head forbids it to load
anything and to run any script but those that are written into it, should something slip through.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stic_ray.report.markdown import escape

_SPACE = re.compile("([ \n\t]+)")
_ACTIVE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}

_STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1f2328;--soft:#656d76;--rule:#d0d7de;--card:#f6f8fa;
--high:37,99,235;--low:217,83,16;--c0:#656d76;--c1:#2563eb;--c2:#15803d}
@media(prefers-color-scheme:dark){:root{--back:#0d1117;--text:#e6edf3;--soft:#9198a1;--rule:#30363d;--card:#161b22;
--high:96,165,250;--low:251,146,60;--c0:#9198a1;--c1:#60a5fa;--c2:#4ade80}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:860px;padding:12px 14px 64px;background:var(--back);color:var(--text);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.4em 0}
h2{font-size:1.25rem;margin:2em 0 .4em;border-top:1px solid var(--rule);padding-top:1em}
h3{font-size:1.05rem;margin:1.6em 0 .3em}p{margin:.4em 0}.soft,figcaption,.legend,dt{color:var(--soft);font-size:.86rem}
figure{margin:.6em 0}.chart{width:100%;max-width:620px;display:block}
.scroll{overflow-x:auto;background:linear-gradient(to right,var(--back) 30%,transparent) left/40px 100% no-repeat local,
linear-gradient(to left,var(--back) 30%,transparent) right/40px 100% no-repeat local,
linear-gradient(to right,var(--rule),transparent) left/12px 100% no-repeat scroll,
linear-gradient(to left,var(--rule),transparent) right/12px 100% no-repeat scroll}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:3px 9px;text-align:right;border-bottom:1px solid var(--rule);overflow-wrap:normal;white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal;min-width:7em}th{font-weight:600;color:var(--soft)}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:8px;margin:.6em 0}
dl div{background:var(--card);border-radius:8px;padding:8px 10px}dd{margin:0;font-size:1.15rem;font-weight:600}
summary{cursor:pointer;color:var(--soft);font-size:.86rem;padding:4px 0}
.legend span{display:inline-flex;align-items:center;gap:6px;margin-right:14px}.legend svg{width:26px;height:9px}
svg text{font:10px system-ui,sans-serif;fill:var(--soft)}.end{text-anchor:end}.middle{text-anchor:middle}
.axis{stroke:var(--soft);stroke-width:1}.grid{stroke:var(--rule);stroke-width:.7}
.mark{stroke:var(--text);stroke-width:1.5;stroke-dasharray:4 3}
rect.high{fill:rgb(var(--high))}rect.low{fill:rgb(var(--low))}
.thin{stroke:var(--c1);stroke-width:1.5}.thick{stroke:var(--c1);stroke-width:7;stroke-opacity:.45}
.tick{stroke:var(--text);stroke-width:2}.line{fill:none;stroke-width:2}.dashed{stroke-dasharray:5 3}
.line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}
.dot.c0{fill:var(--c0)}.dot.c1{fill:var(--c1)}.dot.c2{fill:var(--c2)}
article{background:var(--card);border-radius:10px;padding:10px 12px;margin:10px 0;display:flex;gap:12px;flex-wrap:wrap}
article>div{flex:1 1 240px;min-width:0}article img{width:144px;height:auto;align-self:flex-start;border-radius:6px}
.none{width:144px;min-height:60px;border:1px dashed var(--rule);border-radius:6px;padding:6px;font-size:.8rem}
"""


def document(
    title: str, body: str, *, style: str = "", scripts: Sequence[str] = (), data: Mapping[str, Any] | None = None
) -> str:
    """A whole page. `body` is HTML; `data` is there for the scripts, each under its name as an element's id."""
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    policy += f"; script-src {allowed}" if scripts else ""
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body>"
    )
    given = "".join(
        f'<script type="application/json" id="{escape(name)}">{as_json(tree)}</script>'
        for name, tree in (data or {}).items()
    )
    return f"{head}{body}{given}{''.join(f'<script>{script}</script>' for script in scripts)}</body></html>\n"


def as_json(tree: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element, or opens a comment."""
    return json.dumps(tree, separators=(",", ":"), allow_nan=False).translate(_ACTIVE)


def _digest(script: str) -> str:
    assert "</script" not in script and "<!--" not in script
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def multiline(text: str) -> str:
    """A text with its spaces and line ends, that shows as it is."""
    return "".join(part if _SPACE.fullmatch(part) else escape(part) for part in _SPACE.split(text))


def table_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are escaped already; "" without rows."""
    if not rows:
        return ""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def folded(title: str, content: str) -> str:
    """What shows when somebody asks for it; "" without content."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>" if content else ""


def facts(pairs: Mapping[str, str]) -> str:
    """Names with their values, which are escaped already, as cards."""
    return f"<dl>{''.join(f'<div><dt>{escape(name)}</dt><dd>{value}</dd></div>' for name, value in pairs.items())}</dl>"
