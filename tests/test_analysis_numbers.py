"""Numbers and renderings of the analysis; every expected value is derived here."""

import csv
import io
import math

import pandas as pd
import pytest

from analysis import paper, tables
from analysis.summary import Estimate, below, estimate, minus, paired, rows
from analysis.tables import Column, Table

NAN = float("nan")
# Student's t for 95 %, two-sided, from printed tables: 1, 2 and 3 degrees of freedom.
T1, T2 = 12.7062, 4.30265


def test_estimate_of_three_seeds_by_hand():
    # 1, 2, 6: mean 3, squared deviations 4 + 1 + 9 = 14, variance 14 / 2 = 7.
    value = estimate([1.0, 2.0, 6.0])
    assert (value.n, value.mean) == (3, 3.0)
    assert value.std == pytest.approx(math.sqrt(7))
    half = T2 * math.sqrt(7) / math.sqrt(3)
    assert value.low == pytest.approx(3 - half, abs=1e-4)
    assert value.high == pytest.approx(3 + half, abs=1e-4)


def test_missing_values_are_left_out_and_never_zero():
    assert estimate([NAN, 4.0, NAN]) == Estimate(1, 4.0)
    assert estimate([NAN]) == estimate([]) == Estimate(0)
    assert estimate([NAN, 2.0, 4.0]).mean == 3.0


def test_one_seed_has_no_spread_and_no_interval():
    assert estimate([7.0]) == Estimate(1, 7.0, None, None, None)


def test_pairs_only_over_seeds_that_both_have():
    # Seed 0 only above, seed 3 only below, seed 4 without a number: what is left is 5 - 3 = 2 and 8 - 4 = 4.
    upper = {0: 100.0, 1: 5.0, 2: 8.0, 4: NAN}
    lower = {1: 3.0, 2: 4.0, 3: -100.0, 4: 1.0}
    value = paired(upper, lower)
    assert (value.n, value.mean) == (2, 3.0)
    assert value.std == pytest.approx(math.sqrt(2))
    # The standard error is sqrt(2) / sqrt(2) = 1.
    assert value.low == pytest.approx(3 - T1, abs=1e-3)


def test_below_asks_for_intervals_apart():
    low, high = estimate([1.0, 1.1, 0.9]), estimate([5.0, 5.1, 4.9])
    assert below(low, high) == "yes"
    assert below(high, low) == "no"
    assert below(low, estimate([1.1, 1.2, 1.0])) == "no"
    assert below(low, estimate([50.0])) == "inconclusive"
    assert below(Estimate(0), high) == "inconclusive"


def runs(label, scores, status="done"):
    return [
        {"key": f"{label}{seed}", "losses": label, "seed": seed, "status": status, "student_miou": score}
        for seed, score in scores.items()
    ]


def test_rows_keep_their_order_and_count_a_training_once():
    data = pd.DataFrame([*runs("pce", {0: 1.0, 1: 2.0}), *runs("ce", {0: 5.0}), *runs("pce", {1: 2.0})])
    first, second = rows(data)
    assert [first.label, second.label] == ["pce", "ce"]
    assert first.over_seeds().n == 2
    assert minus(second, first) == Estimate(1, 4.0)


def test_status_in_words():
    data = pd.DataFrame([*runs("pce", {0: 1.0, 1: 2.0}), *runs("pce", {2: NAN}, "missing")])
    assert rows(data)[0].status == "2 done, 1 missing"


def test_numbers_as_text():
    assert tables.fixed(None) == tables.fixed(NAN) == "–"
    assert tables.fixed(-0.04) == "0.0"
    assert tables.fixed(-1.25, 2, sign=True) == "−1.25"
    assert tables.mean_and_std(Estimate(3, 49.53, 1.42, 46.0, 53.0)) == "49.5 ± 1.4 (3)"
    assert tables.mean_and_std(Estimate(1, 49.53)) == "49.5 (1)"
    assert tables.mean_and_std(Estimate(0)) == "–"
    assert tables.difference(Estimate(3, 2.2, 1.0, -0.5, 4.9)) == "+2.2 [−0.5, 4.9]"
    assert tables.difference(Estimate(1, 2.2)) == "+2.2 (1 seed)"
    assert tables.difference(Estimate(0)) == "–"


NASTY = Table(
    "50 % of a_b & c",
    (Column("a|b", right=False), Column("x", 2)),
    (("x_y & 5% #1 {z} ~^\\ $ <b>|", -1.234567), ("`make a_b | c`", None), ('say "hi", you\nthere', NAN)),
    ("note with * and `code_1`",),
)


def test_markdown_escapes():
    text = tables.markdown(NASTY)
    assert r"| a\|b " in text
    assert r"x_y & 5% #1 {z} \~^\\ \$ \<b>\|" in text
    assert r"`make a_b \| c`" in text
    assert "−1.23 |" in text
    assert "note with \\* and `code_1`" in text
    body = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in body}) == 1
    assert len(body) == 2 + 3


def test_latex_escapes():
    text = tables.latex(NASTY)
    assert r"\caption{50 \% of a\_b \& c}" in text
    escaped = (
        r"x\_y \& 5\% \#1 \{z\} \textasciitilde{}\textasciicircum{}\textbackslash{} \$ \textless{}b\textgreater{}"
        r"\textbar{} & $-$1.23 \\"
    )
    assert escaped in text
    assert r"\texttt{make a\_b \textbar{} c} & -- \\" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1


def test_latex_braces_are_closed():
    text = tables.latex(NASTY).replace(r"\{", "").replace(r"\}", "")
    assert text.count("{") == text.count("}")


def test_latex_line_does_not_begin_with_a_bracket():
    assert "{}[a] \\\\" in tables.latex(Table("t", (Column("c"),), (("[a]",),)))


def test_csv_is_read_back_with_plain_numbers():
    head, first, second, third = csv.reader(io.StringIO(tables.comma_separated(NASTY)))
    assert head == ["a|b", "x"]
    assert first == ["x_y & 5% #1 {z} ~^\\ $ <b>|", "-1.2346"]
    assert second[1] == third[1] == ""
    assert third[0] == 'say "hi", you\nthere'


def test_foreign_text_cannot_open_code():
    assert tables.quoted("bad `thing`\n  here") == "bad 'thing' here"
    assert tables.escape_markdown("one ` alone") == "one ' alone"


def test_bullets_break_lines_but_not_code():
    text = tables.bullet("Made by `make one two three four` and more words", width=20)
    assert text.splitlines() == ["- Made by", "  `make one two three four`", "  and more words"]


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="2 values for 1 columns"):
        Table("t", (Column("a"),), (("x", "y"),))


def test_paper_numbers_and_what_the_text_derives_from_them():
    table = paper.table("table3")
    r101 = table.miou["resnet101"]
    assert r101["pce+crf+pcons"] - r101["pce+crf"] == pytest.approx(14.66)
    assert r101["pce+crf+pcons"] - r101["pce+pcons"] == pytest.approx(8.82)
    assert r101["pce+crf+pcons+pseudo"] - r101["pce+crf+pcons"] == pytest.approx(2.22)
    assert table.value("mobilenet", "pce+crf") == 48.75
    assert table.value("mobilenet", "no such row") is None
    assert [table.network(name) for name in ("mobilenet_v2", "resnet101", "small_resnet")] == [
        "mobilenet",
        "resnet101",
        None,
    ]
