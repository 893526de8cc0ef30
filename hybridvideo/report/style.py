"""The colours and the CSS of a page, light and dark."""

from __future__ import annotations

# name -> (light, dark). Figures are drawn in the light colours, then each is replaced by its CSS variable.
THEME = {
    "paper": ("#f6f7f9", "#11151b"),
    "card": ("#fefefe", "#191f27"),
    "ink": ("#1b2330", "#e3e8ef"),
    "soft": ("#566172", "#9aa6b6"),
    "line": ("#dfe4ea", "#2d3642"),
    "accent": ("#2c69d1", "#77a6fb"),
    "second": ("#c9761c", "#eda456"),
    "good": ("#1f8a4c", "#58c486"),
    "bad": ("#c43d37", "#f2786f"),
}


def _variables(which: int) -> str:
    return "".join(f"--{name}:{colours[which]};" for name, colours in THEME.items())


STYLE = (
    f":root{{color-scheme:light dark;{_variables(0)}}}\n"
    f"@media(prefers-color-scheme:dark){{:root{{{_variables(1)}}}}}\n"
    """*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue","DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}
header,main,footer{max-width:1120px;margin:0 auto;padding:0 24px}
header{padding-top:36px}
h1{font-size:28px;line-height:1.2;margin:0 0 8px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:19px;margin:40px 0 12px}
h3{font-size:15px;margin:0 0 8px}
p{margin:0 0 12px;max-width:78ch}
p,h2,h3,summary,figcaption,footer{overflow-wrap:anywhere}
.lead{font-size:17px;color:var(--soft);overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;margin-top:14px;padding-bottom:14px;border-bottom:1px solid var(--line)}
a{color:var(--accent);text-decoration:none}
a:hover{text-decoration:underline}
.box{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px;min-width:0}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:14px;align-items:start}
.columns>*{margin:0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,150px),1fr));gap:14px}
.card .name{color:var(--soft);font-size:13px}
.card .value{font-size:26px;font-weight:620;line-height:1.25;letter-spacing:-.01em;overflow-wrap:anywhere}
.card .note{color:var(--soft);font-size:13px}
.card.big{border-top:4px solid var(--tone,var(--line))}
.card.big .value{font-size:46px;color:var(--tone,var(--ink))}
figure{margin:0}
figure svg{display:block;width:100%;height:auto;margin:0 auto}
figure svg text{font-family:inherit!important}
figcaption{color:var(--soft);font-size:13px;margin-top:8px}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;color:var(--soft);font-weight:600;font-size:13px;white-space:nowrap}
th,td{padding:6px 14px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
td.number,th.number{text-align:right;white-space:nowrap}
.facts td:first-child{color:var(--soft);white-space:nowrap;width:1%;padding-right:28px}
.facts td{overflow-wrap:anywhere}
.bar{display:inline-block;vertical-align:middle;width:110px;height:8px;border-radius:4px;background:var(--line);overflow:hidden}
.bar i{display:block;height:100%;background:var(--accent)}
.tag{font-size:13px;font-weight:600}
.good{color:var(--good)}.bad{color:var(--bad)}
details>summary{cursor:pointer;font-weight:600}
details>summary+*{margin-top:12px}
pre{margin:0;overflow-x:auto;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.notice{border-left:4px solid var(--second)}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr));gap:14px}
.clip{border:2px solid var(--line);border-radius:8px;overflow:hidden;background:var(--card);min-width:0}
.clip.good-border{border-color:var(--good)}.clip.bad-border{border-color:var(--bad)}
.clip img{display:block;width:100%;height:auto}
.clip div{padding:6px 10px 8px;font-size:13px;overflow-wrap:anywhere}
.clip .file{color:var(--soft);padding:0 10px 8px;margin-top:-6px}
section>*+*,.stack>*+*{margin-top:14px}
footer{color:var(--soft);font-size:13px;margin-top:40px;padding-bottom:40px}
@media(max-width:600px){header,main,footer{padding:0 12px}header{padding-top:20px}h1{font-size:22px}
.box{padding:12px}.card .value{font-size:21px}.card.big .value{font-size:34px}.facts td:first-child{white-space:normal;
width:40%;padding-right:12px}th,td{padding-right:10px}.cards{grid-template-columns:repeat(auto-fit,minmax(130px,1fr))}}
@media print{body{background:none}.box,.clip{break-inside:avoid}nav{display:none}}
"""
)
