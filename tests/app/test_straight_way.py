"""The straight way to the gate: what ASGI would have answered, in its order, and with every bound of a connection."""

import asyncio
from pathlib import Path

import pytest

from tests.app.connections import (
    BEFORE,
    BODY,
    ENCODE,
    ENCODE_HEAD,
    LAST,
    LONG,
    MALFORMED,
    SAMPLE,
    SHORT,
    bench,
    on_either_loop,
)


@on_either_loop
@pytest.mark.parametrize(
    "request_",
    [
        *(ENCODE, ENCODE.replace(BODY, b"x" * len(BODY)), SAMPLE, SAMPLE.replace(b"GET", b"HEAD", 1)),
        *(SAMPLE.replace(b"n=1", b"n=0"), SAMPLE.replace(b"n=1", b"model=other"), LAST, LAST.replace(b"n=1", b"n=0")),
        SAMPLE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        SAMPLE.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n"),
    ],
    ids=["encode", "body", "sample", "head", "query", "model", "close", "error", "old", "old and kept"],
)
async def test_the_answer_is_that_of_the_asgi_way(tiny: Path, request_: bytes) -> None:
    async def heard(*, straight: bool) -> list[object]:
        async with bench(tiny, straight=straight) as server:
            client = await server.connect(b"", request_)
            answers = [await client.hear(with_body=not request_.startswith(b"HEAD"))]
            if b"Connection: close" not in request_ and b"HTTP/1.0" not in request_:
                client.say(LAST)
                answers.append(await client.hear())
            await client.hear_end()
            assert len(server.asgi) == (0 if straight else len(answers))
            for each in answers:
                del each.headers["date"]
            return [(each.status_code, each.headers.raw, each.content) for each in answers]

    assert await heard(straight=True) == await heard(straight=False)


@on_either_loop
async def test_whole_requests_are_answered_in_order(tiny: Path) -> None:
    async with bench(tiny) as server:
        client = await server.connect()
        pieces = (SAMPLE.replace(b"mine", b"1"), ENCODE.replace(b"mine", b"2"), LAST.replace(b"mine", b"3"))
        (await server.hold(client, *pieces))[0].set()
        answers = [await client.hear() for _ in range(3)]
        assert [(each.status_code, each.headers["x-request-id"]) for each in answers] == [(200, i) for i in "123"]
        await client.hear_end()
        assert server.asgi == []


@on_either_loop
@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"], ids=["unasked", "asked for"])
@BEFORE
async def test_a_body_that_comes_later(tiny: Path, before: bytes, expect: bytes) -> None:
    async with bench(tiny) as server:
        client = await server.connect(before, ENCODE_HEAD, expect, b"\r\n", b"" if expect else BODY[:50])
        if expect:
            assert (await client.hear()).status_code == 100
        await asyncio.sleep(0.05)
        client.say(BODY if expect else BODY[50:], LAST)
        assert [(await client.hear()).status_code for _ in range(2)] == [200, 200]
        await client.hear_end()


@on_either_loop
@BEFORE
async def test_a_body_that_never_comes(tiny: Path, before: bytes) -> None:
    async with bench(tiny, seconds=SHORT) as server:
        client = await server.connect(before, ENCODE[:-50])
        await client.hear_problem(408, "body-timeout")
        await server.counts()


@on_either_loop
@pytest.mark.parametrize("held", [False, True])
async def test_what_is_malformed_is_refused_after_the_answers(tiny: Path, held: bool) -> None:
    async with bench(tiny) as server:
        client = await server.connect()
        if held:
            (await server.hold(client, SAMPLE, MALFORMED))[0].set()
        else:
            client.say(SAMPLE, MALFORMED)
        assert (await client.hear()).status_code == 200
        await client.hear_problem(400, "bad-request")
        await server.counts()


@on_either_loop
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("keep_alive", [SHORT / 3, LONG])
async def test_a_next_head_that_never_ends(tiny: Path, keep_alive: float, apart: bool) -> None:
    async with bench(tiny, seconds=SHORT, keep_alive=keep_alive) as server:
        client = await server.connect(SAMPLE, b"" if apart else SAMPLE[:30])
        client.say(SAMPLE[:30] if apart else b"")
        await client.hear_problem(408, "head-timeout")


@on_either_loop
@pytest.mark.parametrize("seconds", [SHORT / 3, LONG])
async def test_an_idle_connection_is_kept_for_its_time(tiny: Path, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    async with bench(tiny, seconds=seconds, keep_alive=2 * SHORT) as server:
        client = await server.connect()
        for _ in range(3):
            client.say(SAMPLE)
            assert (await client.hear()).status_code == 200
            answered = loop.time()
            await asyncio.sleep(SHORT)
        await client.hear_end()
        assert 1.8 * SHORT < loop.time() - answered < 10


@on_either_loop
@pytest.mark.parametrize("said", [0, len(ENCODE_HEAD) + 40], ids=["head", "body"])
@BEFORE
async def test_a_trickle_is_bounded(tiny: Path, before: bytes, said: int) -> None:
    async with bench(tiny, seconds=SHORT, keep_alive=SHORT) as server:
        client = await server.connect(before, ENCODE[: said + 1])
        hearing, dripped = asyncio.create_task(client.hear()), said + 1
        while not hearing.done():
            client.say(ENCODE[dripped : (dripped := dripped + 1)])
            await asyncio.sleep(SHORT / 10)
        assert (await hearing).status_code == 408


@on_either_loop
@pytest.mark.parametrize("rest", [b"", SAMPLE, SAMPLE[:30]], ids=["alone", "another", "a head"])
@BEFORE
async def test_no_timer_ends_what_is_in_work(tiny: Path, before: bytes, rest: bytes) -> None:
    async with bench(tiny, seconds=SHORT / 3, keep_alive=SHORT / 3) as server:
        client = await server.connect(before)
        gate, _ = await server.hold(client, SAMPLE, rest)
        await asyncio.sleep(SHORT)
        gate.set()
        for _ in range(2 if rest == SAMPLE else 1):
            assert (await client.hear()).status_code == 200
        await (client.hear_problem(408, "head-timeout") if rest == SAMPLE[:30] else client.hear_end())


@on_either_loop
async def test_a_client_that_leaves_is_not_computed(tiny: Path) -> None:
    async with bench(tiny) as server:
        staying = await server.connect()
        gate, sizes = await server.hold(staying, SAMPLE)
        leaving = await server.connect(b"", SAMPLE.replace(b"n=1", b"n=2"))
        await server.counts('vae_queue_depth{graph="decoder",model="tiny"} 2.0')
        leaving.writer.close()
        await server.counts('vae_requests_total{method="GET",route="/sample",status="499"} 1.0')
        gate.set()
        assert (await staying.hear()).status_code == 200
        await server.counts()
        assert (sizes, server.asgi) == ([1], [])


@on_either_loop
async def test_what_is_in_work_is_answered_before_the_end(tiny: Path) -> None:
    async with bench(tiny) as server:
        idle = await server.connect(SAMPLE)
        client = await server.connect()
        gate, _ = await server.hold(client, SAMPLE)
        server.server.should_exit = True
        await idle.hear_end()
        gate.set()
        answer = await client.hear()
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        await client.hear_end()
