"""What takes draws from posteriors: scores, and operations on a model whose posterior is a flow or whose prior is a
mixture. All of it is what the bundle itself gives for the same noise."""

import base64
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from model.bundle.errors import BundleError
from model.bundle.latents import interpolate, posterior_noise
from model.bundle.manifest import PRIOR
from model.bundle.pixels import from_network, to_network, to_uint8
from model.bundle.prior import Mixture, write_prior
from model.bundle.runtime import Bundle, Posterior
from model.bundle.scores import percentile, score_images
from model.bundle.store import open_bundle
from tests.app.client import NPY, assert_problem, engine_of, grey, npy, picture, running, un_npy
from tests.support.tiny import rewrite, write_tiny_bundle

Run = Callable[[Coroutine[object, object, None]], None]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    where = tmp_path_factory.mktemp("bundles")
    made = {
        "diagonal": write_tiny_bundle(where / "diagonal", scores=True),
        "flow": write_tiny_bundle(where / "flow", scores=True, flow=True),
        "vamp": write_tiny_bundle(where / "vamp"),
    }
    random = np.random.default_rng(0)
    mixture = Mixture(*(random.normal(size=(5, 2)).astype(np.float32) for _ in range(2)))
    (made["vamp"] / PRIOR).write_bytes(write_prior(mixture))
    rewrite(made["vamp"], lambda raw: raw.update(prior={"family": "vamp", "components": 5}))
    return made


@pytest.fixture(params=["diagonal", "flow"])
def scoring(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def repeated(posterior: Posterior, times: int) -> Posterior:
    return Posterior(*(np.repeat(part, times, axis=0) for part in posterior))


def draws(bundle: Bundle, posterior: Posterior, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, k, D) and (N, k), by the bundle alone."""
    n, dim = posterior.mean.shape
    noise = posterior_noise(n, k, dim, seed=seed)
    drawn = bundle.draw(repeated(posterior, k), noise.reshape(-1, dim))
    return drawn.latent.reshape(n, k, dim), drawn.log_density.reshape(n, k)


# --- scores


def test_scores_are_those_of_the_bundle_alone(run: Run, scoring: Path) -> None:
    bundle, images = open_bundle(scoring), grey(3)
    wanted = score_images(bundle, images[..., None], 100, seed=5)
    reference = bundle.validation_scores
    assert reference is not None

    async def scenario() -> None:
        async with running(scoring) as client:
            bodies = [
                {"content": npy(images), "headers": {"content-type": "application/x-npy"}},
                {"json": {"images": [base64.b64encode(picture(image)).decode() for image in images]}},
                {"json": {"images": (images / 255).tolist()}},
            ]
            for body in bodies:
                response = await client.post("/score?k=100&seed=5", **body)  # type: ignore[arg-type]
                assert response.status_code == 200, response.text
                assert response.headers["x-seed"] == "5"
                document = response.json()
                assert set(document) == {"model", "version", "seed", "k", "scores"}
                assert (document["seed"], document["k"]) == (5, 100)
                for name, values in wanted._asdict().items():
                    assert_allclose([entry[name] for entry in document["scores"]], values, rtol=1e-4, err_msg=name)
                assert [entry["reliable"] for entry in document["scores"]] == wanted.reliable.tolist()
                bits = [entry["bits_per_dim"] for entry in document["scores"]]
                assert_allclose(bits, -wanted.log_likelihood / (64 * np.log(2)), rtol=1e-4)
                ranks = [entry["percentile"] for entry in document["scores"]]
                assert_allclose(ranks, percentile(wanted.elbo, reference), atol=5.1)  # one of 20 images

    run(scenario())


def test_a_picture_is_scored_and_its_seed_told(run: Run, scoring: Path) -> None:
    async def scenario() -> None:
        async with running(scoring) as client:
            sent = {"content": picture(grey(1)[0]), "headers": {"content-type": "image/png"}}
            first = await client.post("/score", **sent)  # type: ignore[arg-type]
            assert first.json()["k"] == 64
            about = (await client.get("/models/tiny")).json()
            assert about["scores"] is True
            assert about["validation_scores"] == {"split": "validation", "images": 20, "samples": 16, "seed": 0}
            again = await client.post(f"/score?seed={first.headers['x-seed']}", **sent)  # type: ignore[arg-type]
            assert again.json() == first.json()

    run(scenario())


def test_what_a_score_cannot_be_is_refused(run: Run, folders: dict[str, Path]) -> None:
    async def scenario() -> None:
        async with running(folders["diagonal"], max_score_samples=50, max_draws=90) as client:
            headers = {"content-type": "application/x-npy"}
            for query, pointer in (("k=51", "?k"), ("k=0", "?k"), ("format=npy", "?format"), ("seed=-1", "?seed")):
                response = await client.post(f"/score?{query}", content=npy(grey(1)), headers=headers)
                assert_problem(response, 422, "invalid", pointer=pointer)
            document = assert_problem(
                await client.post("/score?k=46", content=npy(grey(2)), headers=headers), 422, "invalid"
            )
            assert "are more than 90" in str(document)
            assert (await client.post("/score?k=45", content=npy(grey(2)), headers=headers)).status_code == 200
            assert_problem(await client.post("/score", content=npy(grey(1)), headers=NPY), 406, "not-acceptable")

    run(scenario())


def test_a_bundle_without_a_likelihood_says_so(run: Run, folders: dict[str, Path]) -> None:
    async def scenario() -> None:
        async with running(folders["vamp"]) as client:
            response = await client.post("/score", content=picture(grey(1)[0]), headers={"content-type": "image/png"})
            document = assert_problem(response, 422, "invalid", pointer="?model")
            assert "has no likelihood graph" in str(document)
            about = (await client.get("/models/tiny")).json()
            assert about["scores"] is False
            assert about["validation_scores"] is None
            assert about["prior"] == {"family": "vamp", "components": 5}

    run(scenario())


def test_grey_values_under_a_bernoulli_have_no_likelihood(run: Run, tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "grey", scores=True)
    rewrite(folder, lambda raw: raw["likelihood"].update(binarization="none"))

    async def scenario() -> None:
        async with running(folder) as client:
            response = await client.post("/score", content=picture(grey(1)[0]), headers={"content-type": "image/png"})
            (entry,) = response.json()["scores"]
            assert entry["log_likelihood"] is entry["effective_sample_size"] is entry["reliable"] is None
            assert "bits_per_dim" not in entry
            assert entry["elbo"] == pytest.approx(-(entry["kl"] + entry["distortion"]))

    run(scenario())


# --- flows


@pytest.mark.parametrize("shortcut", [True, False])
def test_a_flow_is_encoded_with_what_stands_for_an_image(run: Run, folders: dict[str, Path], shortcut: bool) -> None:
    bundle, images = open_bundle(folders["flow"]), grey(3)
    posterior = bundle.encode(to_network(images[..., None]))
    center = bundle.center(posterior)
    latents, log_density = draws(bundle, posterior, 64, 7)
    kl = (log_density - bundle.prior.log_density(latents)).mean(1)
    assert np.abs(center - posterior.mean).max() > 0.1

    async def scenario() -> None:
        async with running(folders["flow"], shortcut=shortcut) as client:
            sent = {"content": npy(images), "headers": {"content-type": "application/x-npy"}}
            document = (await client.post("/encode?seed=7&samples=3", **sent)).json()  # type: ignore[arg-type]
            assert document["posterior"] == {"family": "planar"}
            assert (document["kl_samples"], document["seed"]) == (64, 7)
            found = document["latents"]
            assert_allclose([entry["mean"] for entry in found], posterior.mean, rtol=1e-5)
            assert_allclose([entry["log_variance"] for entry in found], posterior.log_variance, rtol=1e-5)
            assert_allclose([entry["latent"] for entry in found], center, rtol=1e-5)
            assert_allclose([entry["kl"] for entry in found], kl, rtol=1e-4)
            assert_allclose([entry["samples"] for entry in found], latents[:, :3], rtol=1e-4, atol=1e-5)
            plain = (await client.post("/encode", **sent)).json()  # type: ignore[arg-type]
            assert "samples" not in plain["latents"][0]
            assert 0 <= plain["seed"] < 2**31

    run(scenario())


def test_arrays_of_a_flow(run: Run, folders: dict[str, Path]) -> None:
    bundle, images = open_bundle(folders["flow"]), grey(3)
    posterior = bundle.encode(to_network(images[..., None]))
    wanted = {
        "mean": posterior.mean,
        "log_variance": posterior.log_variance,
        "posterior": np.stack(posterior[:2], 1),
        "latent": bundle.center(posterior),
    }

    async def scenario() -> None:
        async with running(folders["flow"]) as client:
            for output, array in wanted.items():
                response = await client.post(f"/encode?output={output}", content=npy(images), headers=dict(NPY))
                assert_allclose(un_npy(response), array, rtol=1e-5, atol=1e-6)
                assert "x-seed" not in response.headers
            query = "/encode?output=samples&samples=70&seed=2"
            response = await client.post(query, content=npy(images), headers=dict(NPY))
            assert_allclose(un_npy(response), draws(bundle, posterior, 70, 2)[0], rtol=1e-4, atol=1e-5)
            response = await client.post("/encode?seed=2", content=npy(images), headers=dict(NPY))
            assert_problem(response, 422, "invalid", pointer="?seed")

    run(scenario())


def test_only_what_is_answered_is_drawn(run: Run, folders: dict[str, Path]) -> None:
    async def scenario() -> None:
        async with running(folders["flow"]) as client:
            batcher, rows = engine_of(client).models["tiny"].batchers["posterior"], list[int]()
            compute = batcher._run

            def counted(batch: np.ndarray) -> Sequence[np.ndarray]:
                rows.append(len(batch))
                return compute(batch)

            batcher._run = counted
            for query, wanted in (
                ("output=mean", 0),
                ("output=posterior", 0),
                ("output=latent", 3),
                ("output=samples&samples=5", 15),
            ):
                response = await client.post(f"/encode?{query}", content=npy(grey(3)), headers=dict(NPY))
                assert response.status_code == 200
                assert sum(rows) == wanted, query
                rows.clear()
            sent = {"content": npy(grey(3)), "headers": {"content-type": "application/x-npy"}}
            assert (await client.post("/encode?samples=5", **sent)).status_code == 200  # type: ignore[arg-type]
            assert sum(rows) == 3 + 3 * 64

    run(scenario())


def test_more_latents_than_memory_is_given_are_refused_before_any_is_drawn(run: Run, folders: dict[str, Path]) -> None:
    async def scenario() -> None:
        async with running(folders["flow"], max_npy_numbers=3 * 64 * 2 - 1) as client:
            sent = {"content": npy(grey(3)), "headers": {"content-type": "application/x-npy"}}
            for path in ("/encode", "/score"):
                document = assert_problem(await client.post(path, **sent), 422, "invalid")  # type: ignore[arg-type]
                assert "latents to be drawn would hold more than 383 numbers" in str(document["detail"])
            response = await client.post("/encode?output=samples&samples=60", content=npy(grey(3)), headers=dict(NPY))
            assert response.status_code == 200

    run(scenario())


def test_a_divergence_that_is_no_number_is_no_null(
    run: Run, monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]
) -> None:
    monkeypatch.setattr(Mixture, "log_density", lambda self, latents: np.full(np.shape(latents)[:-1], -np.inf))

    async def scenario() -> None:
        async with running(folders["vamp"]) as client:
            sent = {"content": npy(grey(1)), "headers": {"content-type": "application/x-npy"}}
            assert_problem(await client.post("/encode", **sent), 500, "model-failure")  # type: ignore[arg-type]

    run(scenario())


@pytest.mark.parametrize("shortcut", [True, False])
def test_pictures_of_a_flow_are_of_its_latents_and_not_of_the_mean(
    run: Run, folders: dict[str, Path], shortcut: bool
) -> None:
    bundle, images = open_bundle(folders["flow"]), grey(2)
    posterior = bundle.encode(to_network(images[..., None]))
    center = bundle.center(posterior)

    def levels(latents: np.ndarray) -> np.ndarray:
        return to_uint8(from_network(bundle.decode(latents.astype(np.float32)))).astype(int)

    async def scenario() -> None:
        async with running(folders["flow"], shortcut=shortcut) as client:
            for _ in range(2):  # the second would take the express way, if it took it
                response = await client.post("/reconstruct", content=npy(images), headers=dict(NPY))
                assert_allclose(un_npy(response).astype(int), levels(center), atol=1)
            response = await client.post("/reconstruct?sample=true&seed=4", content=npy(images), headers=dict(NPY))
            assert_allclose(un_npy(response).astype(int), levels(draws(bundle, posterior, 1, 4)[0][:, 0]), atol=1)
            response = await client.post("/interpolate?steps=5", content=npy(images), headers=dict(NPY))
            assert_allclose(un_npy(response).astype(int), levels(interpolate(center, 5)), atol=1)
            points = [{"image": base64.b64encode(picture(image)).decode()} for image in images]
            answer = await client.post("/interpolate", json={"points": points}, headers={"accept": "application/json"})
            assert_allclose(np.array(answer.json()["latents"])[[0, -1]], center, rtol=1e-4)

    run(scenario())


# --- mixtures


def test_samples_of_a_mixture_are_its_draws_and_its_kl_is_an_estimate(run: Run, folders: dict[str, Path]) -> None:
    bundle, images = open_bundle(folders["vamp"]), grey(2)
    posterior = bundle.encode(to_network(images[..., None]))
    latents, log_density = draws(bundle, posterior, 64, 3)
    kl = (log_density - bundle.prior.log_density(latents)).mean(1)

    async def scenario() -> None:
        async with running(folders["vamp"]) as client:
            for _ in range(2):
                answer = await client.get("/sample?n=6&seed=9&temperature=0.5", headers={"accept": "application/json"})
                assert_allclose(answer.json()["latents"], bundle.prior.draw(6, seed=9, temperature=0.5), rtol=1e-5)
            sent = {"content": npy(images), "headers": {"content-type": "application/x-npy"}}
            document = (await client.post("/encode?seed=3", **sent)).json()  # type: ignore[arg-type]
            assert document["kl_samples"] == 64
            assert_allclose([entry["kl"] for entry in document["latents"]], kl, rtol=1e-4)
            assert "latent" not in document["latents"][0]

    run(scenario())


def test_a_mixture_that_is_not_there_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "vamp")
    rewrite(folder, lambda raw: raw.update(prior={"family": "vamp", "components": 5}))
    with pytest.raises(BundleError, match=r"manifest\.json: lists no prior\.npz"):
        open_bundle(folder)


def test_draws_of_all_requests_are_bounded_and_given_back(run: Run, folders: dict[str, Path]) -> None:
    """Twice what one may draw: a third one that is as large is told to come later, and may come when one is over."""
    headers = {"content-type": "application/x-npy"}

    async def scenario() -> None:
        async with running(folders["flow"], max_npy_numbers=2 * 64 * 10) as client:
            engine = engine_of(client)
            assert (await client.post("/score?k=64", content=npy(grey(10)), headers=headers)).status_code == 200
            assert engine._drawn == 0
            engine.hold_drawn(2 * 64 * 10 + 1)
            answer = await client.post("/score?k=64", content=npy(grey(10)), headers=headers)
            assert_problem(answer, 503, "overloaded")
            assert answer.headers["retry-after"]
            assert engine._drawn == 2 * 64 * 10 + 1
            engine.hold_drawn(-engine._drawn)
            assert (await client.post("/encode", content=npy(grey(10)), headers=headers)).status_code == 200

    run(scenario())


def test_draws_of_a_flow_are_bounded_for_encode_too(run: Run, folders: dict[str, Path]) -> None:
    async def scenario() -> None:
        async with running(folders["flow"], max_draws=200) as client:
            headers = {"content-type": "application/x-npy"}
            assert (await client.post("/encode?samples=100", content=npy(grey(2)), headers=headers)).status_code == 200
            answer = await client.post("/encode?samples=101", content=npy(grey(2)), headers=headers)
            assert "101 draws for each of 2 images are more than 200" in str(assert_problem(answer, 422, "invalid"))

    run(scenario())
