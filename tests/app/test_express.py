"""The express way of heads that are known: the answers of the way of all requests, and every bound of a connection."""

import asyncio
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import Overloaded
from app.exchange import Call
from app.express import LONGEST_HEAD, MOST_HEADS, Known, Lane
from app.notes import Note
from app.operations import sample
from tests.app.client import assert_problem, engine_of, grey, npy, picture, running
from tests.app.connections import LAST, LONG, SHORT, Bench, Client, bench, on_either_loop

Answered = tuple[int, list[tuple[bytes, bytes]], bytes]


def post(path: str, kind: str, body: bytes, accept: str = "application/json", more: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nAccept: {accept}\r\n{more}"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


NPY, JSON, PNG = "application/x-npy", "application/json", "image/png"
ENCODE = post("/encode", NPY, npy(grey(1)), NPY)
LATENT = b'{"latents": [[0.5, -1]]}'
DECODE = post("/decode", JSON, LATENT, NPY)
SAMPLE = b"GET /sample?n=2&seed=1 HTTP/1.1\r\nHost: x\r\n\r\n"
EXPRESS = {
    "encode": ENCODE,
    "encode several": post("/encode", NPY, npy(grey(3))),
    "encode to log_variance": post("/encode?output=log_variance", NPY, npy(grey(1)), NPY),
    "encode pixels": post("/encode", JSON, b'{"images": [%s]}' % str((grey(1)[0] / 255).round(3).tolist()).encode()),
    "encode a picture": post("/encode", PNG, picture(grey(1)[0])),
    "decode": DECODE,
    "decode an array": post("/decode", NPY, npy(np.zeros((2, 2), np.float32)), PNG),
    "decode to numbers": post("/decode?dtype=float32", JSON, LATENT),
    "reconstruct": post("/reconstruct", PNG, picture(grey(1)[0]), PNG),
    "sample": SAMPLE,
    "sample numbers": SAMPLE.replace(b"Host", b"Accept: application/json\r\nHost").replace(
        b"seed", b"dtype=float32&seed"
    ),
    "traverse": post("/traverse", JSON, b'{"dimension": 1, "steps": 3}', NPY),
}
OWN_WAY = {
    "an id": ENCODE.replace(b"Host", b"X-Request-ID: mine\r\nHost"),
    "a trace": ENCODE.replace(b"Host", b"traceparent: 00-1\r\nHost"),
    "posterior samples": post("/encode?samples=1&seed=1", NPY, npy(grey(1)), NPY),
    "a drawn reconstruction": post("/reconstruct?sample=true&seed=1", NPY, npy(grey(1)), PNG),
    "points": post("/interpolate", NPY, npy(grey(2)), PNG),
    "base64": post("/decode", JSON, LATENT),
    "a long head": ENCODE.replace(b"Host", b"X: " + b"x" * LONGEST_HEAD + b"\r\nHost"),
    "a probe": b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
}


def watch(lane: Lane) -> list[bool]:
    """Of every request that it was asked to take: did it?"""
    took: list[bool] = []
    take = lane.take

    def watched(known: Known, body: bytes, finish: Callable[..., None]) -> object:
        errand = take(known, body, finish)
        took.append(errand is not None)
        return errand

    lane.take = watched  # type: ignore[method-assign, assignment]
    return took


async def heard(client: Client) -> Answered:
    """An answer without what differs from one request to the next."""
    answer = await client.hear()
    del answer.headers["date"]
    if answer.headers["x-request-id"] != "mine":
        del answer.headers["x-request-id"]
    return answer.status_code, sorted(answer.headers.raw), re.sub(rb'"request_id":"\w+"', b"", answer.content)


def lane_of(server: Bench) -> Lane:
    assert server.lane is not None
    return server.lane


@on_either_loop
@pytest.mark.parametrize("request_", EXPRESS.values(), ids=EXPRESS)
async def test_what_is_known_is_answered_as_before(tiny: Path, request_: bytes) -> None:
    async with bench(tiny) as server, bench(tiny, straight=False) as plain:
        took = watch(lane_of(server))
        client = await server.connect()
        answers = []
        for _ in range(3):
            client.say(request_)
            answers.append(await heard(client))
        assert took == [True, True]
        other = await plain.connect(b"", request_)
        assert answers == 3 * [await heard(other)]
        assert answers[0][0] == 200
        await server.counts()


@on_either_loop
@pytest.mark.parametrize("request_", OWN_WAY.values(), ids=OWN_WAY)
async def test_what_goes_its_own_way(tiny: Path, request_: bytes) -> None:
    async with bench(tiny) as server:
        took = watch(lane_of(server))
        client = await server.connect()
        for _ in range(3):
            client.say(request_)
            assert (await client.hear()).status_code == 200
        assert not any(took)


@on_either_loop
@pytest.mark.parametrize("kind", ["image/webp", "application/zip", "application/json"])
async def test_answers_that_take_a_thread_are_not_tried(tiny: Path, kind: str) -> None:
    async with bench(tiny) as server:
        took = watch(lane_of(server))
        client = await server.connect()
        for _ in range(3):
            client.say(post("/decode", JSON, LATENT, kind))
            assert (await client.hear()).headers["content-type"] == kind
        assert took == []


@on_either_loop
async def test_a_head_request_and_a_last_one_are_not_remembered(tiny: Path) -> None:
    async with bench(tiny) as server:
        took = watch(lane_of(server))
        for _ in range(3):
            client = await server.connect(b"", SAMPLE.replace(b"GET", b"HEAD", 1))
            assert (await client.hear(with_body=False)).status_code == 200
            client.say(SAMPLE.replace(b"Host", b"Connection: close\r\nHost"))
            assert (await client.hear()).headers["connection"] == "close"
            await client.hear_end()
            client = await server.connect(SAMPLE.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n"))
            await client.hear_end()
        assert took == []


@on_either_loop
@pytest.mark.parametrize(
    ("request_", "wrong", "status"),
    [
        (ENCODE, b"\x93NUMPY", 422),
        (DECODE, b'{"latents": [[0.5, nul]]}', 400),
        (DECODE, b'{"latents": [[0.5, "1"]]}', 422),
        (post("/encode", PNG, picture(grey(1)[0])), b"\x89PNG", 422),
    ],
    ids=["npy", "json", "text", "picture"],
)
async def test_a_wrong_body_below_a_known_head(tiny: Path, request_: bytes, wrong: bytes, status: int) -> None:
    async with bench(tiny) as server, bench(tiny, straight=False) as plain:
        took = watch(lane_of(server))
        head, _, body = request_.partition(b"\r\n\r\n")
        right = head.replace(b"Length: %d" % len(body), b"Length: %d" % max(len(body), len(wrong))) + b"\r\n\r\n"
        size = max(len(body), len(wrong))
        padding = b" " if body.startswith(b"{") else b"\0"
        good, bad = right + body.ljust(size, padding), right + wrong.ljust(size, padding)
        client, other = await server.connect(), await plain.connect()
        for said in (good, bad, good):
            client.say(said)
            other.say(said)
            answer = await heard(client)
            assert answer == await heard(other)
            assert answer[0] == (status if said is bad else 200)
        assert took == [False, True]
        await server.counts()
        await server.counts(
            f'vae_requests_total{{method="POST",route="/{right[6:].split()[0].decode()}",status="200"}} 2.0'
        )


@on_either_loop
async def test_what_is_said_before_the_answer_is_answered_after_it(tiny: Path) -> None:
    async with bench(tiny) as server:
        client = await server.connect(SAMPLE)
        took = watch(lane_of(server))
        gate, _ = await server.hold(client, SAMPLE)
        client.say(DECODE)
        await asyncio.sleep(0.05)
        client.say(ENCODE, LAST)
        gate.set()
        answers = [await client.hear() for _ in range(4)]
        assert [(each.status_code, each.headers["content-type"]) for each in answers] == [
            *((200, kind) for kind in (PNG, NPY, NPY, PNG))
        ]
        await client.hear_end()
        assert took == [True]
        await server.counts()


@on_either_loop
async def test_a_client_that_leaves(tiny: Path) -> None:
    async with bench(tiny) as server:
        client = await server.connect(SAMPLE)
        took = watch(lane_of(server))
        gate, _ = await server.hold(client, SAMPLE)
        client.writer.close()
        await server.counts()
        await server.counts('vae_rejections_total{reason="client gone"} 1.0')
        gate.set()
        assert took == [True]


@on_either_loop
async def test_a_shutdown_waits_for_the_answer(tiny: Path) -> None:
    async with bench(tiny) as server:
        client = await server.connect(SAMPLE)
        took = watch(lane_of(server))
        gate, _ = await server.hold(client, SAMPLE)
        server.server.should_exit = True
        await asyncio.sleep(0.3)
        gate.set()
        answer = await client.hear()
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        await client.hear_end()
        assert took == [True]


@on_either_loop
@pytest.mark.parametrize("how", ["draining", "overloaded"])
async def test_a_server_that_takes_no_more_says_so(tiny: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(tiny) as server:
        took = watch(lane_of(server))
        client = await server.connect(SAMPLE)
        if how == "draining":
            server.engine.refuse()
        else:

            def full(size: int) -> None:
                raise Overloaded

            monkeypatch.setattr(server.engine, "hold", full)
        client.say(ENCODE if how == "overloaded" else SAMPLE)
        answer = await client.hear()
        assert answer.status_code == 503
        client.say(SAMPLE)
        assert (await client.hear()).status_code == 503
        assert not any(took)
        monkeypatch.undo()
        await server.counts()


@on_either_loop
async def test_a_key_is_part_of_the_head(tiny: Path) -> None:
    async with bench(tiny, api_keys="secret") as server:
        took = watch(lane_of(server))
        client = await server.connect()
        for key, status in (
            ("wrong", 401),
            ("secret", 200),
            ("secret", 200),
            ("wrong", 401),
            ("", 401),
            ("secret", 200),
        ):
            client.say(SAMPLE.replace(b"Host", b"X-API-Key: %s\r\nHost" % key.encode()))
            assert (await client.hear()).status_code == status
        assert took == [True, True]


@on_either_loop
async def test_one_that_cannot_be_answered_is_no_business_of_the_others(tiny: Path) -> None:
    async with bench(tiny) as server:
        clients = [await server.connect(SAMPLE) for _ in range(3)]
        took = watch(lane_of(server))
        gate, _ = await server.hold(clients[0], SAMPLE)
        for client in clients[1:]:
            client.say(SAMPLE)
        await asyncio.sleep(0.05)
        next(iter(server.server.server_state.connections)).transport.abort()
        gate.set()
        heard_of = await asyncio.gather(*(client.hear() for client in clients), return_exceptions=True)
        assert sorted(not isinstance(each, BaseException) for each in heard_of) == [False, True, True]
        assert took == [True, True, True]
        await server.counts()


@on_either_loop
async def test_a_model_that_fails(overflowing: Path) -> None:
    async with bench(overflowing) as server:
        took = watch(lane_of(server))
        good, bad = (
            post("/decode", JSON, b'{"latents": [[0.50, 0.5]]}'),
            post("/decode", JSON, b'{"latents": [[1e3, 1000]]}'),
        )
        good, bad = (each.replace(b"Accept: application/json", b"Accept: image/png") for each in (good, bad))
        client = await server.connect(good)
        client.say(bad)
        assert_problem(await client.hear(), 500, "model-failure")
        client.say(good)
        assert (await client.hear()).status_code == 200
        assert took == [True, True]
        await server.counts()


@on_either_loop
async def test_a_connection_is_idle_after_it(tiny: Path) -> None:
    async with bench(tiny, keep_alive=SHORT) as server:
        took = watch(lane_of(server))
        client = await server.connect(SAMPLE)
        client.say(SAMPLE)
        assert (await client.hear()).status_code == 200
        await client.hear_end()
        assert took == [True]


@on_either_loop
async def test_a_head_that_never_ends_after_it(tiny: Path) -> None:
    async with bench(tiny, seconds=SHORT, keep_alive=LONG) as server:
        took = watch(lane_of(server))
        client = await server.connect(SAMPLE)
        client.say(SAMPLE)
        assert (await client.hear()).status_code == 200
        client.say(SAMPLE[:20])
        await client.hear_problem(408, "head-timeout")
        assert took == [True]


CUTS = st.lists(st.floats(0, 1), max_size=8)
SAID = st.lists(st.sampled_from([ENCODE, DECODE, SAMPLE, OWN_WAY["an id"], OWN_WAY["a probe"]]), min_size=1, max_size=6)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=SAID, cuts=CUTS)
def test_however_it_arrives(tiny: Path, said: list[bytes], cuts: list[float]) -> None:
    stream = b"".join(said)
    ends = sorted({round(cut * len(stream)) for cut in cuts} | {0, len(stream)})

    async def scenario() -> None:
        async with bench(tiny) as server:
            client = await server.connect()
            expected = []
            for request_ in said:
                client.say(request_)
                expected.append(await heard(client))
            for start, end in pairwise(ends):
                client.say(stream[start:end])
                await asyncio.sleep(0.001)
            assert [await heard(client) for _ in said] == expected
            await server.counts()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_the_oldest_heads_are_forgotten(tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny) as client:
            lane = Lane(engine_of(client))
            note = Note("1", "/encode", "POST")
            await client.post("/encode", content=npy(grey(1)), headers={"content-type": NPY})
            lane.remember(b"none", note, 0)
            assert lane.find(b"none") is None
            scope = {"query_string": b"n=1", "headers": [], "latentserve.note": note}
            note.plan = sample(Call(lane._engine, scope, cast(object, None), b""))  # type: ignore[arg-type]
            for i in range(MOST_HEADS + 10):
                lane.remember(b"%d" % i, note, 0)
            assert lane.find(b"9") is None
            assert lane.find(b"10") is not None
            assert len(lane._heads) == MOST_HEADS

    asyncio.run(scenario())
