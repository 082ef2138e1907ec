"""LaTeX of a manuscript: escaped text, numbers, tables and figures in IEEE columns. Standard library only."""

import re

from data_prep.report_blocks import MOST_ROWS, MOST_TEXT, stamps

ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
    "°": r"\textdegree{}", "±": r"$\pm$", "²": r"\textsuperscript{2}", "µ": r"\textmu{}", "×": r"$\times$",
    "−": r"$-$", "–": "--", "—": "---", "…": r"\ldots{}", "“": "``", "”": "''", "‘": "`", "’": "'",
    "\u00a0": "~", "\u202f": r"\,",
}  # fmt: skip
NOT_SET = "ĦħĸĿŀŉŦŧſ"  # Latin letters that T1 fonts lack
WIDE, WIDEST = 72, 148  # letters a row of one and of two columns holds in \scriptsize


MARK = "% Written by make_report.py --manuscript; writing it again replaces it. Copy what you change."


class Tex(str):
    """Text that is LaTeX already and is not escaped again."""


def escape(text) -> Tex:
    """Any text as LaTeX that shows it; letters no Latin font has are named by their code: [U+4E2D]."""
    if isinstance(text, Tex):
        return text
    shown = []
    for letter in str(text):
        if letter in ESCAPES:
            shown.append(ESCAPES[letter])
        elif letter.isspace() or not letter.isprintable():
            shown.append(" ")
        elif ord(letter) < 0x180 and letter not in NOT_SET:
            shown.append(letter)
        else:
            shown.append(f"[U+{ord(letter):04X}]")
    return Tex(" ".join("".join(shown).split()))


def numbers(text) -> Tex:
    """A cell of numbers: escaped, with true minus signs, powers of ten and intervals that do not break."""
    words = escape(text)

    def power(found):
        sign = "-" if found[2] == "-" else ""
        return rf"{found[1]}\,$\times$\,$10^{{{sign}{found[3]}}}$"

    words = re.sub(r"(\d)e([+-])0*(\d+)", power, words)
    return Tex(re.sub(r"(?<![\w^{-])-(?=[\d.])", "$-$", words))


def whole(value) -> str | None:
    """A count with a thin gap between thousands; None for none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1e15:
        return None  # of NaN, infinity and what no count reaches, too
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


# ---- floats ------------------------------------------------------------------------------------------------


def caption_of(words: str, *steps: dict) -> Tex:
    """A caption that ends with the stamps of its steps."""
    said = dict.fromkeys(name for step in steps for name in stamps(step))
    return Tex(" ".join([escape(words), *(f"{name.capitalize()}." for name in said)]))


def table(name: str, caption: Tex, columns: list[str], rows: list[list], note: str = "") -> str:
    """A booktabs table of one column, or of two where its rows are long; the first cell of a row is text.

    Cells are escaped unless they are Tex; None is a dash. Rows beyond MOST_ROWS are counted in the caption.
    """
    if len(rows) > MOST_ROWS:
        caption = Tex(f"{caption} The first {MOST_ROWS} of {len(rows):,} rows.")
    cells = [[cell(value) for value in row] for row in [columns, *rows[:MOST_ROWS]]]
    letters = sum(max(shown(row[k]) for row in cells) + 2 for k in range(len(columns)))
    kind = "table*" if letters > WIDE else "table"
    align = "l" + "".join(
        "r" if is_numbers(row[k] for row in cells[1:]) else "l" for k in range(1, len(columns))
    )
    lines = [line(row) for row in cells]
    body = [rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
    body += [r"\bottomrule", r"\end{tabular}"]
    if letters > WIDEST:
        body = [r"\resizebox{\textwidth}{!}{%", *body, "}"]
    if note:
        width = r"\textwidth" if kind == "table*" else r"\columnwidth"
        body += [r"\par\smallskip", rf"\parbox{{{width}}}{{\raggedright {escape(note)}}}"]
    return "\n".join([
        rf"\begin{{{kind}}}[t]", rf"\caption{{{caption}}}", rf"\label{{tab:{name.removeprefix('tab_')}}}",
        r"\centering",
        r"\scriptsize", r"\setlength{\tabcolsep}{3pt}", *body, rf"\end{{{kind}}}", "",
    ])  # fmt: skip


def cell(value) -> Tex:
    if value is None or value == "":
        return Tex("--")
    if isinstance(value, Tex):
        return value
    words = str(value)
    return escape(words if len(words) <= MOST_TEXT // 5 else words[: MOST_TEXT // 5] + "…")


def shown(tex: str) -> int:
    """About how many letters wide LaTeX text is."""
    return len(re.sub(r"\\[a-zA-Z]+(\{\})?|[\\{}$]", "", re.sub(r"\\text\w+\{\}", "x", tex)))


def is_numbers(column) -> bool:
    return all(re.match(r"(\$-\$)?[\d.]|--|\\textless", tex) for tex in column)


def line(cells: list[Tex]) -> str:
    """A row; a [ or * right after the \\\\ of the row before would be taken for its argument."""
    text = " & ".join(cells)
    return ("{}" if text[:1] in ("[", "*") else "") + text + r" \\"


def figure(name: str, caption: Tex, wide: bool) -> str:
    kind, width = ("figure*", r"\textwidth") if wide else ("figure", r"\columnwidth")
    return "\n".join([
        rf"\begin{{{kind}}}[t]", r"\centering", rf"\includegraphics[width={width}]{{{name}.pdf}}",
        rf"\caption{{{caption}}}", rf"\label{{fig:{name.removeprefix('fig_')}}}", rf"\end{{{kind}}}", "",
    ])  # fmt: skip


def document(title: str, body: list[str], left_out: list[str]) -> str:
    """manuscript.tex: an IEEEtran article that takes in all parts; what is left out stands in comments."""
    comments = [f"% left out: {re.sub('[^ -~]', '?', words)}" for words in left_out]
    return "\n".join([
        MARK,
        *comments,
        r"\documentclass[journal]{IEEEtran}",
        r"\usepackage[T1]{fontenc}", r"\usepackage[utf8]{inputenc}", r"\usepackage{textcomp}",
        r"\usepackage{amsmath}", r"\usepackage{graphicx}", r"\usepackage{booktabs}", r"\usepackage{cite}",
        r"\usepackage{url}",
        r"\begin{document}", rf"\title{{{escape(title)}}}", r"\author{}", r"\maketitle", "",
        *body, "",
        r"\bibliographystyle{IEEEtran}", r"\bibliography{references}", r"\end{document}", "",
    ])  # fmt: skip
