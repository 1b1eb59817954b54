"""Files of judgements, each kind of bad row named with its line and remedy, and figures worked out by hand."""

import math
from pathlib import Path

import pytest

from likeness.core.errors import UsageError
from likeness.evaluation import judgements
from likeness.evaluation.judged_queries import Query
from likeness.evaluation.judgements import Judgement
from likeness.serving.responses import Result


def written(folder: Path, text: str) -> Path:
    path = folder / "queries.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_read_in_its_order(tmp_path: Path) -> None:
    rows = ["b.jpg,x,,p1", " a.jpg ,,0.5, p1 ", '"b.jpg","two\nlines",0,"p,2"', "", "连衣裙,,2,p3", ""]
    text = "\n".join(["\ufeffquery,note,relevance,product_id", *rows])
    judged, problems = judgements.read(written(tmp_path, text))
    assert not problems
    assert [(one.query, one.line, one.relevances) for one in judged] == [
        ("b.jpg", 2, {"p1": 1, "p,2": 0}),
        ("a.jpg", 3, {"p1": 0.5}),
        ("连衣裙", 7, {"p3": 2}),
    ]


def test_every_bad_row_is_told_at_once(tmp_path: Path) -> None:
    rows = [
        "query,product_id,relevance",
        "a.jpg,p1,high",
        ",p1,",
        "a.jpg,,",
        "a.jpg,p2,",
        "a.jpg,p2,3",
        "a.jpg,p3,-1",
        "a.jpg,p4,inf",
        "a.jpg,p5,1,more",
        "b.jpg,p5,0",
        "b.jpg,p6,0",
        "a.jpg,p7,nan",
    ]
    path = written(tmp_path, "\n".join(rows))
    judged, problems = judgements.read(path)
    assert {one.query: one.relevances for one in judged} == {"a.jpg": {"p2": 1}, "b.jpg": {"p5": 0, "p6": 0}}
    with pytest.raises(UsageError) as error:
        judgements.refuse(path, problems)
    lines = str(error.value).splitlines()
    assert lines[0] == f"--judgements {path} has 9 bad rows; nothing is evaluated:"
    for line, (number, value, remedy) in zip(
        lines[1:],
        [
            (2, "'high'", "write one, or leave it empty"),
            (3, "no query", "delete the line"),
            (4, "no product_id", "delete the line"),
            (6, "'p2' was judged for 'a.jpg' in line 5", "delete one"),
            (7, "'-1'", "write one"),
            (8, "'inf'", "write one"),
            (9, "1 more fields", "quotes"),
            (10, "'b.jpg' has no product of a relevance above 0", "judge one"),
            (12, "'nan'", "write one"),
        ],
        strict=True,
    ):
        assert line.startswith(f"  line {number}: ")
        assert value in line
        assert remedy in line


def test_no_problem_is_no_refusal(tmp_path: Path) -> None:
    judgements.refuse(tmp_path, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "has no column query and no product_id but none at all"),
        (b"photo,product_id\na,b\n", "has no column query but photo, product_id"),
        (b"query,product_id\n", "has no rows"),
        (b"query,product_id\n\xff,p\n", "must be a CSV in UTF-8"),
        (b'query,product_id\n"a,p\n', "must be a CSV in UTF-8"),
    ],
)
def test_a_file_that_is_no_judgements_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "queries.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as error:
        judgements.read(path)
    assert str(path) in str(error.value)


def test_recall_by_hand() -> None:
    of = {"a": 2.0, "b": 1.0, "c": 0.5, "d": 0.0}
    assert judgements.recall(["x", "a", "d", "c", "b"], of, 4) == 2 / 3
    assert judgements.recall(["d", "x"], of, 4) == 0
    assert judgements.recall(["c", "b", "a"], of, 10) == 1
    assert judgements.recall([], of, 1) == 0


def test_ndcg_by_hand() -> None:
    of = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0}
    best = 3 + 2 / math.log2(3) + 1 / 2
    assert judgements.ndcg(["b", "x", "a"], of, 3) == pytest.approx((2 + 3 / 2) / best)
    assert judgements.ndcg(["a", "b", "c", "d"], of, 3) == 1
    assert judgements.ndcg(["d", "a"], of, 1) == 0
    assert judgements.ndcg(["b", "a"], of, 1) == pytest.approx(2 / 3)
    assert judgements.ndcg([], of, 5) == 0


def result(image_id: str, *products: str) -> Result:
    scores = {"category": "c", "uri": "file:///x", "score": 0.5, "distance": 0.5}
    return Result.model_validate(scores | {"image_id": image_id, "product_id": products[0], "products": products})


def test_a_ranking_is_of_products_each_once_without_the_query() -> None:
    results = [result("i1", "p1"), result("i2", "p2", "p1"), result("i3", "p1", "p3"), result("i4", "p4")]
    judged = Judgement("p1", 2)
    assert Query(judged, "photo", Path("x.jpg")).ranking(results) == ["p1", "p2", "p3", "p4"]
    assert Query(judged, "image", image_id="i1").ranking(results) == ["p2", "p1", "p3", "p4"]
    assert Query(judged, "product", image_id="i1").ranking(results) == ["p2", "p3", "p4"]
