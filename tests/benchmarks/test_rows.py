"""What is asked and what passes for a right answer."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.dialects import V2, Canned, Dialect, Ours, Plain, check_answer
from benchmarks.rows import LARGE_ROWS, MAIN_ROWS, PICTURE_ROWS, Row, Workload, WrongAnswer
from tests.support.tiny import write_tiny_bundle

FORMS = [Row("encode", 3, "json", 1), Row("encode", 3, "binary", 1), Row("decode", 3, "json", 1)]
FORMS += [Row("decode", 3, "binary", 1)]


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "color"])
def workload(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workload:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    return Workload(write_tiny_bundle(folder, channels=request.param, height=8, width=10))


def plain_answer(row: Row, workload: Workload) -> bytes:
    """The right answer in plain bodies, computed from the body of the request."""
    graphs, request = workload.graphs, Plain().request(row, workload)
    assert row.operation in ("encode", "decode")
    inputs = graphs.read(row.operation, request.body, is_json=row.form == "json")
    return graphs.write(row.operation, graphs.run(row.operation, inputs), is_json=row.form == "json")


def test_the_rows_are_all_that_were_promised() -> None:
    assert len(MAIN_ROWS) == len(set(MAIN_ROWS)) == 24
    assert len(PICTURE_ROWS) == 6
    assert len(LARGE_ROWS) == 8
    assert "decode-64-binary-64" in [row.name for row in MAIN_ROWS]


@pytest.mark.parametrize("row", FORMS, ids=lambda row: row.request)
def test_a_right_answer_passes_and_a_wrong_one_does_not(row: Row, workload: Workload) -> None:
    right = plain_answer(row, workload)
    check_answer(Plain(), row, 200, right, workload)
    with pytest.raises(WrongAnswer, match="status 500"):
        check_answer(Plain(), row, 500, right, workload)
    for body in (b"", right[:-4], b"{}", b"[]", b'{"mean": "no"}', b"null"):
        with pytest.raises(WrongAnswer):
            check_answer(Plain(), row, 200, body, workload)
    # The right numbers of the wrong item.
    other = Plain().read(row, right, workload)
    with pytest.raises(WrongAnswer, match="is off by"):
        workload.check(row, {name: np.roll(array, 1, axis=0) for name, array in other.items()})
    for name, array in other.items():
        spoiled = array.astype(np.float64)
        spoiled.flat[-1] = np.nan
        with pytest.raises(WrongAnswer, match=f"{name} is off by nan"):
            workload.check(row, other | {name: spoiled})


def test_ours_is_asked_for_the_same_numbers(workload: Workload) -> None:
    for row in FORMS:
        said, plain = Ours().request(row, workload), Plain().request(row, workload)
        if row.form == "json":
            assert said.body == plain.body
        else:
            array = np.load(io.BytesIO(said.body), allow_pickle=False)
            assert array.tobytes() == plain.body
            assert array.ndim == (2 if row.operation == "decode" else 3 if workload.graphs.channels == 1 else 4)


def test_json_has_four_decimals_at_most(workload: Workload) -> None:
    for row in (row for row in FORMS if row.form == "json"):
        text = Plain().request(row, workload).body.decode()
        numbers = [word for word in text.replace("[", ",").replace("]", ",").split(",") if "." in word]
        assert numbers
        assert max(len(number.partition(".")[2]) for number in numbers) <= 4


def test_ours_is_read(workload: Workload) -> None:
    row = FORMS[0]
    wanted = workload.expected(row)
    entries = [{name: wanted[name][item].tolist() for name in wanted} for item in range(row.items)]
    check_answer(Ours(), row, 200, json.dumps({"latents": entries}).encode(), workload)
    buffer = io.BytesIO()
    np.save(buffer, workload.expected(FORMS[1])["mean"])
    check_answer(Ours(), FORMS[1], 200, buffer.getvalue(), workload)
    with pytest.raises(WrongAnswer, match=r"no \.npy"):
        check_answer(Ours(), FORMS[1], 200, b"\x93NUMPY", workload)


def test_v2_says_and_reads_tensors(workload: Workload) -> None:
    said = V2().request(FORMS[1], workload)
    size = int(said.headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(said.body[:size])["inputs"]
    assert tensor["shape"] == list(workload.images(3).shape)
    assert said.body[size:] == workload.images(3).tobytes()
    mean = workload.expected(FORMS[1])["mean"]
    output = {"name": "mean", "datatype": "FP32", "shape": list(mean.shape)}
    binary = output | {"parameters": {"binary_data_size": mean.nbytes}}
    check_answer(V2(), FORMS[1], 200, json.dumps({"outputs": [binary]}).encode() + mean.tobytes(), workload)
    listed = output | {"data": mean.ravel().tolist()}
    check_answer(V2(), FORMS[1], 200, json.dumps({"outputs": [listed]}).encode(), workload)


@pytest.mark.parametrize("dialect", [Plain(), Ours()], ids=["plain", "ours"])
def test_pictures_are_checked(dialect: Dialect, workload: Workload) -> None:
    row = Row("reconstruct", 1, "png", 1)
    assert dialect.request(row, workload).body.startswith(b"\x89PNG")
    with pytest.raises(WrongAnswer, match="levels is off by"):
        check_answer(dialect, row, 200, workload.picture, workload)  # the picture itself is no reconstruction
    for body in (b"", b"{}"):
        with pytest.raises(WrongAnswer, match="no PNG"):
            check_answer(dialect, row, 200, body, workload)
    sample = Row("sample", 16, "png", 1)
    assert dialect.request(sample, workload).method == "GET"
    with pytest.raises(WrongAnswer, match="no grid of 16"):
        check_answer(dialect, sample, 200, workload.picture, workload)


def test_answers_that_lie_ready_are_right(workload: Workload, tmp_path: Path) -> None:
    workload.write_answers(tmp_path / "answers")
    for row in MAIN_ROWS:
        path = Canned().request(row, workload).path
        check_answer(Canned(), row, 200, (tmp_path / "answers" / path[1:]).read_bytes(), workload)
