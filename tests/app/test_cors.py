"""Pages of other origins: none unless listed, and refusals that such a page can read."""

from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings
from tests.app.client import assert_problem, running

Run = Callable[[Coroutine[object, object, None]], None]

PAGE = "https://page.example"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type,x-api-key,authorization,x-request-id,traceparent",
}


def test_off_by_default(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny) as client:
            response = await client.get("/sample?n=1", headers={"origin": PAGE})
            assert response.status_code == 200
            assert not [name for name in response.headers if name.startswith("access-control")]
            assert_problem(
                await client.options("/encode", headers={"origin": PAGE, **PREFLIGHT}), 405, "method-not-allowed"
            )

    run(scenario())


def test_a_listed_origin(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny, cors_origins=(PAGE,), api_keys=("key",)) as client:
            response = await client.options("/encode", headers={"origin": PAGE, **PREFLIGHT})
            assert response.status_code == 200  # without a key: browsers send none
            assert response.headers["access-control-allow-origin"] == PAGE
            assert response.headers["x-request-id"]
            refused = await client.get("/sample?n=1", headers={"origin": PAGE})
            assert_problem(refused, 401, "unauthorized")
            assert refused.headers["access-control-allow-origin"] == PAGE
            response = await client.get("/sample?n=1", headers={"origin": PAGE, "x-api-key": "key"})
            assert response.status_code == 200
            assert response.headers["access-control-allow-origin"] == PAGE
            assert "X-Seed" in response.headers["access-control-expose-headers"]
            text = (await client.get("/metrics", headers={"x-api-key": "key"})).text
            assert 'vae_requests_total{method="OPTIONS",route="preflight",status="200"} 1.0' in text

    run(scenario())


def test_another_origin(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny, cors_origins=(PAGE,)) as client:
            headers = {"origin": "https://other.example", **PREFLIGHT}
            response = await client.options("/encode", headers=headers)
            assert_problem(response, 400, "bad-request")
            assert int(response.headers["content-length"]) == len(response.content)
            assert "access-control-allow-origin" not in response.headers
            response = await client.get("/sample?n=1", headers={"origin": "https://other.example"})
            assert "access-control-allow-origin" not in response.headers

    run(scenario())


def test_all_origins(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny, cors_origins=("*",)) as client:
            response = await client.get("/sample?n=1", headers={"origin": PAGE})
            assert response.headers["access-control-allow-origin"] == "*"

    run(scenario())


def test_preflights_are_counted_and_not_timed(run: Run, tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with running(tiny, cors_origins=(PAGE,), access_log=True) as client:
            await client.options("/encode", headers={"origin": PAGE, **PREFLIGHT})
            text = (await client.get("/metrics")).text
            assert 'route="preflight",status="200"} 1.0' in text
            assert 'vae_request_duration_seconds_count{route="preflight"}' not in text

    with caplog.at_level("INFO", "app.access"):
        run(scenario())
    assert "OPTIONS preflight 200" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        "page.example",
        "https://page.example/",
        "https://page.example/a",
        "HTTPS://P.example",
        "https://*.page.example",
        "https://page.example:443",
        "http://page.example:80",
        "https://müller.example",
        "https://a:b",
    ],
)
def test_what_is_no_origin_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="no origin"):
        Settings(cors_origins=(wrong,))
    Settings(
        cors_origins=("http://localhost:3000", "https://page.example", "chrome-extension://abc", "http://[::1]:81")
    )
