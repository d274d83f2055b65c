"""docker/edge: a real nginx with the shipped configuration, in front of a real server."""

import json
import os
import re
import select
import socket
import ssl
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
import uvicorn
import yaml

from app.errors import ERRORS
from app.protocol import HEAD_BYTES
from app.settings import Settings
from tests.app.client import assert_problem, grey, picture
from tests.support.edge import FOLDER, USER, Echo, Edge, exchange, free_port
from tests.support.server import Server, serving
from tests.support.tiny import write_tiny_bundle

CONFIG = (FOLDER / "nginx.conf").read_text(encoding="utf-8")
MOST = Settings().max_body_bytes
PNG = picture(grey(1)[0])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")) as server:
        yield server


@pytest.fixture(scope="module")
def edge(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    edge = Edge(tmp_path_factory.mktemp("edge"), server.port)
    with edge.running():
        yield edge


@pytest.fixture
def client(edge: Edge) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=edge.url, timeout=60) as client:
        yield client


def encode(client: httpx.Client, **headers: str) -> httpx.Response:
    return client.post("/encode", content=PNG, headers={"content-type": "image/png"} | headers)


def setting(name: str) -> str:
    """The one value of a directive."""
    (found,) = re.findall(rf"^\s*{name} ([^;]+);", CONFIG, re.M)
    return str(found)


def test_operations_pass(client: httpx.Client) -> None:
    encoded = encode(client)
    assert encoded.status_code == 200, encoded.text
    assert len(encoded.json()["latents"][0]["mean"]) == 2
    assert encoded.headers["x-model"] == "tiny/1"
    sampled = client.get("/sample", params={"n": 4, "seed": 7})
    assert sampled.headers["content-type"] == "image/png"
    assert sampled.headers["x-seed"] == "7"
    assert client.get("/readyz").status_code == 200


def test_the_id_is_the_same_on_both_sides(client: httpx.Client) -> None:
    assert encode(client, **{"x-request-id": "mine/1"}).headers.get_list("x-request-id") == ["mine/1"]
    (made,) = encode(client).headers.get_list("x-request-id")
    assert re.fullmatch(r"[0-9a-f]{32}", made)
    assert encode(client, **{"x-request-id": 'no"t {mine}'}).headers["x-request-id"] != 'no"t {mine}'


def test_the_servers_own_errors_pass_untouched(client: httpx.Client) -> None:
    assert_problem(client.get("/sample", params={"model": "other"}), 404, "unknown-model")
    assert_problem(client.post("/encode", content=b"?", headers={"content-type": "text/plain"}), 415, (
        "unsupported-media-type"
    ))  # fmt: skip
    assert_problem(client.get("/sample", params={"n": 0}), 422, "invalid")


def test_a_body_is_as_large_as_the_server_takes_it(client: httpx.Client) -> None:
    assert int(setting("client_max_body_size").removesuffix("m")) * 2**20 == MOST
    # The largest reaches the server, which has its own to say about it.
    assert_problem(client.post("/encode", content=bytes(MOST), headers={"content-type": "image/png"}), 422, "invalid")
    told = assert_problem(client.post("/encode", content=bytes(MOST + 1)), 413, "too-large")
    assert str(MOST) in str(told["detail"])


def test_a_body_of_unknown_length_has_the_same_bound(edge: Edge) -> None:
    pieces = b"100000\r\n" + bytes(2**20) + b"\r\n"
    head = b"POST /encode HTTP/1.1\r\nHost: e\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = exchange(edge.port, head + pieces * 17 + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 "), answer
    assert b"latentserve:too-large" in answer


@pytest.mark.parametrize(("count", "size"), [(1, 20_000), (6, 15_000)], ids=["a long line", "many lines"])
def test_a_head_is_as_large_as_the_server_takes_it(client: httpx.Client, count: int, size: int) -> None:
    buffers, each = setting("large_client_header_buffers").split()
    assert int(buffers) * int(each.removesuffix("k")) * 2**10 == HEAD_BYTES
    headers = {f"x-{number}": "a" * size for number in range(count)}
    assert_problem(client.get("/livez", headers=headers), 431, "head-too-large")


def test_a_long_uri_is_a_long_head(client: httpx.Client) -> None:
    assert_problem(client.get("/sample?" + "a" * 20_000), 431, "head-too-large")


@pytest.mark.parametrize("head", [b"nonsense", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b"])
def test_what_is_no_request_gets_an_answer_in_form(edge: Edge, head: bytes) -> None:
    start, _, body = exchange(edge.port, head + b"\r\n\r\n").partition(b"\r\n\r\n")
    assert b" 400 " in start.partition(b"\r\n")[0]
    assert b"Content-Type: application/problem+json" in start
    document = json.loads(body)
    assert document["type"] == "urn:problem-type:latentserve:bad-request"
    assert f"X-Request-ID: {document['request_id']}".encode() in start


def test_methods_that_nginx_refuses(client: httpx.Client) -> None:
    assert_problem(client.request("TRACE", "/livez"), 405, "method-not-allowed")


@pytest.mark.parametrize("path", ["/metrics", "//metrics", "/%6Detrics", "/docs/../metrics", "/metrics?a", "/metrics/"])
def test_metrics_are_not_for_clients(server: Server, edge: Edge, path: str) -> None:
    assert b"# HELP" in exchange(server.port, b"GET /metrics HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n")
    answer = exchange(edge.port, f"GET {path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"latentserve:not-found" in answer
    assert b"# HELP" not in answer


def test_its_own_place_for_errors_is_nobody_elses(client: httpx.Client) -> None:
    assert_problem(client.get("/.problem"), 404, "not-found")


def test_without_a_server_there_is_still_an_answer_in_form(tmp_path: Path) -> None:
    edge = Edge(tmp_path, free_port())
    with edge.running():
        answer = httpx.post(edge.url + "/encode", content=PNG, headers={"x-request-id": "mine"})
        assert assert_problem(answer, 502, "bad-gateway")["request_id"] == "mine"
        assert answer.headers["retry-after"] == "1"
        assert "nginx/" not in answer.headers["server"]


def test_one_client_has_its_share_of_requests(tmp_path: Path) -> None:
    burst = int(re.findall(r"burst=(\d+)", CONFIG)[0])
    get = b"GET /sample HTTP/1.1\r\nHost: e\r\n"
    # All at once and with no server behind: they come faster than the rate on any machine.
    edge = Edge(tmp_path, free_port())
    with edge.running():
        answers = exchange(edge.port, (get + b"\r\n") * (3 * burst) + get + b"Connection: close\r\n\r\n")
    counts = Counter(re.findall(rb"HTTP/1\.1 (\d+) ", answers))
    assert set(counts) == {b"502", b"429"}
    assert counts[b"502"] > burst
    assert counts.total() == 3 * burst + 1
    head, _, body = answers[answers.rindex(b"HTTP/1.1 429 ") :].partition(b"\r\n\r\n")
    assert b"\r\nContent-Type: application/problem+json\r\n" in head
    assert b"\r\nRetry-After: 1\r\n" in head
    assert json.loads(body)["type"] == "urn:problem-type:latentserve:too-many-requests"


@contextmanager
def held(port: int, source: str, count: int, head: bytes, body: bytes) -> Iterator[list[bytes]]:
    """Requests of the client ``source`` that lack an end, so that nginx waits for it; what it answers at once."""
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0)))
            for _ in range(count)
        ]
        for connection in connections:
            with suppress(ConnectionError):  # it is told no before it has sent all
                connection.sendall(b"POST /encode HTTP/1.1\r\nHost: e\r\n" + head + b"\r\n\r\n" + body)
        answers = []
        while answered := select.select(connections, [], [], 1)[0]:
            for connection in answered:
                connections.remove(connection)
                with suppress(ConnectionError):
                    answers.append(connection.recv(65536))
        yield answers


LARGE = {
    "of a length": (b"Content-Length: 200000", bytes(199_999)),
    "in pieces": (b"Transfer-Encoding: chunked", b"30d3f\r\n" + bytes(199_999)),
}


@pytest.mark.parametrize(("head", "body"), LARGE.values(), ids=LARGE)
def test_one_client_leaves_room_for_the_bodies_of_others(
    server: Server, tmp_path: Path, head: bytes, body: bytes
) -> None:
    most = int(re.findall(r"limit_conn large_bodies (\d+);", CONFIG)[0])
    edge = Edge(tmp_path, server.port)
    with edge.running(), held(edge.port, "127.0.0.2", most + 3, head, body) as answers:
        assert len(edge.bodies()) == most
        assert [answer.split(b" ", 2)[1] for answer in answers] == [b"429"] * 3
        assert b"latentserve:too-many-requests" in answers[0]
        large = PNG + bytes(300_000)  # what comes after a picture's end does not matter to it
        with httpx.Client(base_url=edge.url, timeout=60) as other:
            assert other.post("/encode", content=large, headers={"content-type": "image/png"}).status_code == 200
        # Nor is the first kept from what is small.
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(base_url=edge.url, timeout=60, transport=transport) as first:
            assert encode(first).status_code == 200
            assert first.get("/sample").status_code == 200
            assert first.post("/encode", content=large).status_code == 429


def test_all_clients_together_have_room_for_their_bodies(server: Server, tmp_path: Path) -> None:
    each, most = (
        int(re.findall(rf"limit_conn {zone} (\d+);", CONFIG)[0]) for zone in ("large_bodies", "all_large_bodies")
    )
    edge = Edge(tmp_path, server.port)
    with edge.running(), ExitStack() as stack:
        refused = 0
        for client in range(2, 3 + most // each):
            refused += len(stack.enter_context(held(edge.port, f"127.0.0.{client}", each, *LARGE["of a length"])))
        assert refused == each
        assert len(edge.bodies()) == most


def test_small_bodies_are_in_no_file(server: Server, tmp_path: Path) -> None:
    edge = Edge(tmp_path, server.port)
    with edge.running(), held(edge.port, "127.0.0.2", 20, b"Content-Length: 99999", bytes(99_998)) as answers:
        assert not answers
        assert not edge.bodies()


def test_its_container_has_room_for_what_it_may_hold() -> None:
    """Bodies in /tmp; buffers of bodies and answers, which are a client's each; and both within the memory limit."""
    service = yaml.safe_load((FOLDER.parents[1] / "compose.yaml").read_text(encoding="utf-8"))["services"]["edge"]
    assert service["user"] == f"{USER}:{USER}"
    requests, bodies = (
        int(re.findall(rf"limit_conn {zone} (\d+);", CONFIG)[0]) for zone in ("all_connections", "all_large_bodies")
    )
    count, size = setting("proxy_buffers").split()
    buffers = size_of(setting("client_body_buffer_size")) + size_of(setting("proxy_buffer_size"))
    buffers += int(count) * size_of(size)
    tmp = size_of(service["tmpfs"][0].removeprefix("/tmp:size="))  # noqa: S108
    assert tmp > 1.1 * bodies * MOST
    assert size_of(service["mem_limit"]) > tmp + requests * buffers + 50 * 2**20
    assert 2 * requests < int(setting("worker_connections"))  # a worker that has them all, and their servers


def size_of(text: str) -> int:
    """Bytes of what nginx and Compose write as 16k, 16m or 1g."""
    return int(text[:-1]) << {"k": 10, "m": 20, "g": 30}[text[-1]]


def test_what_a_client_says_about_itself_is_not_passed_on(tmp_path: Path) -> None:
    lies = {
        "x-forwarded-for": "10.9.8.7",
        "x-forwarded-proto": "https",
        "forwarded": "for=10.9.8.7",
        "x-request-id": "i",
    }
    with Echo() as echo:
        edge = Edge(tmp_path, echo.port)
        with edge.running():
            assert httpx.get(edge.url + "/livez?a=b", headers=lies).status_code == 200
    (head,) = echo.heads
    assert ("x-forwarded-for", "127.0.0.1") in head
    assert ("x-forwarded-proto", "http") in head
    assert ("x-request-id", "i") in head
    assert ("host", f"127.0.0.1:{edge.port}") in head
    names = [name for name, _ in head]
    assert len(names) == len(set(names))
    assert not {"forwarded", "connection"} & set(names)


def test_a_replica_that_is_gone_costs_no_request(server: Server, tmp_path: Path) -> None:
    with Echo(drops=True) as ending:
        edge = Edge(tmp_path, ending.port, server.port, free_port())
        with edge.running(), httpx.Client(base_url=edge.url, timeout=60) as client:
            assert [encode(client).status_code for _ in range(20)] == [200] * 20
    assert ending.heads  # it was asked, and another after it


def test_connections_to_the_server_are_given_up_before_it_closes_them() -> None:
    kept, of_clients = (int(value) for value in re.findall(r"^\s*keepalive_timeout (\d+)s;", CONFIG, re.M))
    assert kept < uvicorn.Config("none").timeout_keep_alive < of_clients
    settings = Settings()
    assert int(setting("proxy_read_timeout").removesuffix("s")) > settings.queue_seconds + settings.drain_seconds
    assert int(setting("proxy_send_timeout").removesuffix("s")) > settings.receive_seconds


def test_the_log_has_a_line_of_json_a_request_and_no_query(edge: Edge, client: httpx.Client) -> None:
    client.get("/sample?seed=3", headers={"x-request-id": "logged", "user-agent": 'a "quoted" name'})
    client.get("/sample?seed=3", headers={"x-request-id": "refused", "x-long": "a" * 20_000})
    found = edge.logged("logged", "refused")
    assert (found["logged"]["method"], found["logged"]["path"], found["logged"]["status"]) == ("GET", "/sample", 200)
    assert found["logged"]["user_agent"] == 'a "quoted" name'
    assert found["refused"]["status"] == 431
    assert "seed" not in edge.log.read_text(encoding="utf-8")


def test_a_server_hears_of_a_body_when_it_is_whole(tmp_path: Path) -> None:
    head = b"POST /encode HTTP/1.1\r\nHost: e\r\nX-Request-ID: slow\r\nConnection: close\r\nContent-Length: 2\r\n\r\n"
    with Echo() as echo:
        edge = Edge(tmp_path, echo.port)
        with edge.running(), socket.create_connection(("127.0.0.1", edge.port), timeout=30) as slow:
            slow.sendall(head + b"a")
            assert httpx.get(edge.url + "/livez", headers={"x-request-id": "quick"}).status_code == 200
            slow.sendall(b"b")
            assert slow.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert [dict(head)["x-request-id"] for head in echo.heads] == ["quick", "slow"]


def test_errors_are_named_as_the_server_names_them() -> None:
    named = re.findall(
        r"""^\s*(\d+|default) '"urn:problem-type:latentserve:([a-z-]+)","title":"([^"]+)"';""", CONFIG, re.M
    )
    known = {error.slug: (str(error.status), error.title) for error in ERRORS}
    of_the_edge = {
        "too-many-requests",
        "bad-gateway",
        "gateway-timeout",
        "not-implemented",
        "http-version-not-supported",
    }
    assert {slug for _, slug, _ in named} - of_the_edge <= set(known)
    for status, slug, title in named:
        if slug in known:
            assert (status.replace("default", "500"), title) == known[slug]
    # Each that is answered has its words.
    answered = {code for codes in re.findall(r"error_page ([\d ]+) /\.problem;", CONFIG) for code in codes.split()}
    assert answered - {"500"} <= {status for status, _, _ in named}


def test_it_writes_below_tmp_and_to_its_own_output_only() -> None:
    written = dict(re.findall(r"^\s*(pid|error_log|access_log|[a-z_]+_temp_path) ([^ ;]+)", CONFIG, re.M))
    assert (written.pop("error_log"), written.pop("access_log")) == ("stderr", "/dev/stdout")
    # What is not named would be where the distribution has it, and nginx makes all of them.
    folders = {f"{kind}_temp_path" for kind in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")}
    assert set(written) == {"pid"} | folders
    assert all(place.startswith("/tmp/") for place in written.values())  # noqa: S108


@pytest.fixture
def edge_of_another() -> Iterator[tuple[Path, int | None]]:
    """A folder, and the user of the image, whose it is; where only root could become that user, our own."""
    with TemporaryDirectory(prefix="edge-") as name:
        user = USER if os.geteuid() == 0 else None
        if user is not None:
            os.chown(name, user, user)
        yield Path(name), user


def test_with_a_certificate_it_encrypts(server: Server, edge_of_another: tuple[Path, int | None]) -> None:
    folder, user = edge_of_another
    edge = Edge(folder, server.port, tls=True, user=user)
    key = (folder / "tls" / "tls.key").stat()
    assert (stat.S_IMODE(key.st_mode), key.st_uid) == (0o600, os.geteuid() if user is None else user)
    command = edge.command("-t")
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **edge.identity)
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr + edge.errors.read_text(encoding="utf-8")
    context = ssl.create_default_context(cafile=str(edge.certificate))
    with edge.running(), httpx.Client(base_url=edge.tls_url, verify=context, timeout=60) as client:
        answer = encode(client)
        assert answer.status_code == 200, answer.text
        assert answer.headers["strict-transport-security"].startswith("max-age=")
        assert_problem(client.get("/metrics"), 404, "not-found")
        # The plain port says nothing of it; plain HTTP at the other is a bad request.
        assert "strict-transport-security" not in httpx.get(edge.url + "/livez").headers
        assert_problem(httpx.get(edge.tls_url.replace("https", "http")), 400, "bad-request")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("AES128-SHA256")
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(httpx.ConnectError):
            httpx.get(edge.tls_url + "/livez", verify=old)
