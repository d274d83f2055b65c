"""Flows: log |det| is that of the Jacobian, maps cannot fold whatever their parameters are, densities are densities."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal

from model.divergences import kl_between_gaussians
from model.posteriors import DiagonalGaussian, FullGaussian, Posterior, standard_normal_log_density
from model.posteriors.autoregressive import MADE, InverseAutoregressive
from model.posteriors.families import (
    DiagonalSettings,
    FullSettings,
    HouseholderSettings,
    IAFSettings,
    OrthogonalSettings,
    PlanarSettings,
    PosteriorSettings,
    RadialSettings,
    TriangularSettings,
    build_family,
)
from model.posteriors.flows import Flow, orthonormal, planar, radial, reflect
from model.posteriors.gaussian import strictly_lower

D = 5
FLOWS: list[PosteriorSettings] = [
    PlanarSettings(kind="planar", steps=3),
    RadialSettings(kind="radial", steps=3),
    IAFSettings(kind="iaf", steps=3, hidden=12, context=4),
    OrthogonalSettings(kind="sylvester-orthogonal", steps=3, bottleneck=3),
    HouseholderSettings(kind="sylvester-householder", steps=3, reflections=3),
    TriangularSettings(kind="sylvester-triangular", steps=3),
]
ALL: list[PosteriorSettings] = [DiagonalSettings(), FullSettings(kind="full"), *FLOWS]
on_all = pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings.kind)
on_flows = pytest.mark.parametrize("settings", FLOWS, ids=lambda settings: settings.kind)


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


def raw_of(settings: PosteriorSettings, generator: Generator, count: int = 4, scale: float = 1.0, d: int = D) -> Tensor:
    family = build_family(settings, d)
    return scale * torch.randn(count, family.outputs, generator=generator, dtype=torch.float64)


def posterior_of(settings: PosteriorSettings, raw: Tensor, d: int = D) -> Posterior:
    torch.manual_seed(1)  # layers initialize themselves from the global generator
    posterior: Posterior = build_family(settings, d).to(raw.dtype)(raw)
    return posterior


def jacobian_of(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    jacobian: Tensor = torch.autograd.functional.jacobian(function, at)  # type: ignore[no-untyped-call]
    return jacobian


@on_all
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_the_density_is_the_bases_less_the_log_determinant_of_the_jacobian(
    settings: PosteriorSettings, scale: float, generator: Generator
) -> None:
    raw = raw_of(settings, generator, scale=scale)
    noise = torch.randn(len(raw), D, generator=generator, dtype=torch.float64)
    drawn = posterior_of(settings, raw).draw(noise)
    for index in range(len(raw)):
        one = posterior_of(settings, raw[index : index + 1])
        jacobian = jacobian_of(partial(lambda e, one: one.draw(e[None]).latent[0], one=one), noise[index])
        sign, log_determinant = torch.linalg.slogdet(jacobian)
        assert sign == 1
        expected = standard_normal_log_density(noise[index]) - log_determinant
        torch.testing.assert_close(drawn.log_density[index], expected, rtol=1e-7, atol=1e-7)


@on_flows
@pytest.mark.parametrize("scale", [30.0, 1000.0])
def test_no_parameters_fold_space(settings: PosteriorSettings, scale: float, generator: Generator) -> None:
    raw = raw_of(settings, generator, count=200, scale=scale).float()
    noise = torch.randn(3, 200, D, generator=generator)
    posterior = build_family(settings, D)(raw)
    latent, log_density = posterior.draw(noise)
    assert latent.isfinite().all()
    assert log_density.isfinite().all()


@on_all
def test_densities_are_normalized(settings: PosteriorSettings, generator: Generator) -> None:
    """E_q[p(z) / q(z)] is the part of p that q reaches, each point counted once: 1 for a map that is one to one."""
    d = 2
    raw = raw_of(settings_of(settings, d), generator, count=1, scale=0.7, d=d)
    posterior = posterior_of(settings_of(settings, d), raw, d)
    latent, log_density = posterior.draw(torch.randn(400_000, 1, d, generator=generator, dtype=torch.float64))
    middle, spread = latent.mean(0), 0.5 * latent.std(0)
    log_p = standard_normal_log_density((latent - middle) / spread) - spread.log().sum()
    ratio = (log_p - log_density).exp()
    error = ratio.std() / math.sqrt(len(ratio))
    assert abs(ratio.mean() - 1) < 4 * error
    assert error < 0.02


def settings_of(settings: PosteriorSettings, d: int) -> PosteriorSettings:
    """The same for so few dimensions."""
    if isinstance(settings, OrthogonalSettings):
        return settings.model_copy(update={"bottleneck": min(settings.bottleneck, d)})
    return settings


@on_all
def test_several_draws_of_an_image_are_each_that_of_its_noise(
    settings: PosteriorSettings, generator: Generator
) -> None:
    raw = raw_of(settings, generator)
    noise = torch.randn(3, len(raw), D, generator=generator, dtype=torch.float64)
    posterior = posterior_of(settings, raw)
    together = posterior.draw(noise)
    for index in range(3):
        alone = posterior.draw(noise[index])
        torch.testing.assert_close(together.latent[index], alone.latent)
        torch.testing.assert_close(together.log_density[index], alone.log_density)


@on_all
def test_images_do_not_know_of_each_other(settings: PosteriorSettings, generator: Generator) -> None:
    raw = raw_of(settings, generator)
    noise = torch.randn(len(raw), D, generator=generator, dtype=torch.float64)
    whole, part = posterior_of(settings, raw).draw(noise), posterior_of(settings, raw[1:2]).draw(noise[1:2])
    torch.testing.assert_close(whole.latent[1:2], part.latent)
    torch.testing.assert_close(whole.log_density[1:2], part.log_density)


@on_all
def test_all_parameters_get_gradients(settings: PosteriorSettings, generator: Generator) -> None:
    family = build_family(settings, D).double()
    raw = raw_of(settings, generator).requires_grad_()
    latent, log_density = family(raw).draw(torch.randn(len(raw), D, generator=generator, dtype=torch.float64))
    (log_density.sum() + latent.square().sum()).backward()
    assert raw.grad is not None
    assert (raw.grad != 0).all()
    assert all(parameter.grad is not None and (parameter.grad != 0).any() for parameter in family.parameters())


@on_all
def test_the_center_is_what_no_noise_becomes(settings: PosteriorSettings, generator: Generator) -> None:
    raw = raw_of(settings, generator)
    posterior = posterior_of(settings, raw)
    torch.testing.assert_close(posterior.center(), posterior.draw(torch.zeros(len(raw), D, dtype=torch.float64)).latent)


@on_all
@pytest.mark.parametrize("d", [1, 2, 7])
def test_any_number_of_dimensions(settings: PosteriorSettings, d: int, generator: Generator) -> None:
    if settings.kind == "full" and d == 1:
        with pytest.raises(ValueError, match=r"needs a model\.latent_dim of 2 or more"):
            build_family(settings, d)
        return
    fitting = settings_of(settings, d)
    raw = raw_of(fitting, generator, d=d)
    latent, log_density = posterior_of(fitting, raw, d).draw(torch.zeros(len(raw), d, dtype=torch.float64))
    assert latent.shape == (len(raw), d)
    assert log_density.shape == (len(raw),)
    assert log_density.isfinite().all()


@on_flows
def test_a_flow_has_no_closed_rate_and_tells_its_base(settings: PosteriorSettings, generator: Generator) -> None:
    raw = raw_of(settings, generator)
    posterior = posterior_of(settings, raw)
    base = DiagonalGaussian.from_raw(raw[:, : 2 * D])
    assert posterior.rate() is None
    torch.testing.assert_close((posterior.mean, posterior.log_variance), (base.mean, base.log_variance))


class TestFullGaussian:
    def test_is_that_of_torch_distributions(self, generator: Generator) -> None:
        settings = FullSettings(kind="full")
        posterior = posterior_of(settings, raw_of(settings, generator))
        assert isinstance(posterior, FullGaussian)
        noise = torch.randn(6, 4, D, generator=generator, dtype=torch.float64)
        latent, log_density = posterior.draw(noise)
        expected = MultivariateNormal(posterior.mean, scale_tril=posterior.factor)
        wanted = expected.log_prob(latent)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(log_density, wanted)
        torch.testing.assert_close(posterior.log_density(latent), wanted)
        torch.testing.assert_close(posterior.noise(latent), noise)
        torch.testing.assert_close(posterior.log_variance, expected.variance.log())

    def test_its_rate_is_the_divergence_of_full_gaussians(self, generator: Generator) -> None:
        settings = FullSettings(kind="full")
        posterior = posterior_of(settings, raw_of(settings, generator))
        assert isinstance(posterior, FullGaussian)
        covariance = posterior.factor @ posterior.factor.mT
        zero, identity = torch.zeros(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64)
        torch.testing.assert_close(posterior.rate(), kl_between_gaussians(posterior.mean, covariance, zero, identity))

    @pytest.mark.parametrize("size", [1, 2, 3, 6])
    def test_entries_lie_below_the_diagonal_row_by_row(self, size: int) -> None:
        entries = torch.arange(1.0, 1 + size * (size - 1) // 2)
        matrix = strictly_lower(entries, size)
        assert torch.equal(matrix, matrix.tril(-1))
        rows, columns = torch.tril_indices(size, size, -1)
        assert torch.equal(matrix[rows, columns], entries)


class TestPlanar:
    def test_what_may_not_be_is_moved_along_w(self, generator: Generator) -> None:
        u, w = 1.5 * torch.randn(2, 100, D, generator=generator, dtype=torch.float64)
        b = torch.zeros(100, dtype=torch.float64)
        step = planar(torch.ones(100, D, dtype=torch.float64), u, w, b)[0] - 1
        moved = (step * w).sum(-1) / torch.tanh(w.sum(-1))
        torch.testing.assert_close(moved, torch.nn.functional.softplus((w * u).sum(-1)) - 1)
        assert (moved > -1).all()

    def test_without_a_direction_it_is_a_shift(self) -> None:
        u, latent = torch.ones(2, D), torch.randn(2, D, generator=Generator().manual_seed(3))
        moved, log_determinant = planar(latent, u, torch.zeros(2, D), torch.ones(2))
        assert torch.equal(log_determinant, torch.zeros(2))
        torch.testing.assert_close(moved - latent, math.tanh(1) * u)


def test_radial_at_its_center_is_a_scaling() -> None:
    center = torch.zeros(1, D, dtype=torch.float64)
    raw_alpha, raw_beta = torch.tensor([0.3], dtype=torch.float64), torch.tensor([-0.4], dtype=torch.float64)
    moved, log_determinant = radial(center, center, raw_alpha, raw_beta)
    factor = torch.nn.functional.softplus(raw_beta) / torch.nn.functional.softplus(raw_alpha)
    assert torch.equal(moved, center)
    torch.testing.assert_close(log_determinant, D * factor.log())


class TestOrthonormal:
    @pytest.mark.parametrize("shape", [(5, 3), (5, 5), (64, 32), (3, 1)])
    def test_is_the_nearest_matrix_with_orthonormal_columns(self, shape: tuple[int, int], generator: Generator) -> None:
        raw = torch.randn(7, *shape, generator=generator, dtype=torch.float64)
        q = orthonormal(raw)
        u, _, v = torch.linalg.svd(raw, full_matrices=False)
        torch.testing.assert_close(q, u @ v, rtol=0, atol=1e-9)
        torch.testing.assert_close(q.mT @ q, torch.eye(shape[1], dtype=q.dtype).expand(7, -1, -1), rtol=0, atol=1e-12)

    def test_so_many_iterations_are_enough_for_what_is_not_nearly_singular(self, generator: Generator) -> None:
        raw = torch.eye(20, 10) + 0.3 * torch.randn(50, 20, 10, generator=generator)
        torch.testing.assert_close(orthonormal(raw, iterations=40), orthonormal(raw), rtol=0, atol=1e-5)


def test_reflections_keep_lengths_and_undo_themselves_backwards(generator: Generator) -> None:
    vector, normals = torch.randn(6, 4, D, generator=generator), torch.randn(4, 3, D, generator=generator)
    turned = reflect(vector, normals)
    torch.testing.assert_close(turned.norm(dim=-1), vector.norm(dim=-1))
    torch.testing.assert_close(reflect(turned, normals.flip(-2)), vector)


def test_each_output_of_a_made_sees_what_is_before_it_only(generator: Generator) -> None:
    made = MADE(D, hidden=16, context=3).double()
    context = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    for part in range(2):
        latent = torch.randn(D, generator=generator, dtype=torch.float64)
        jacobian = jacobian_of(partial(lambda z, part: made(z[None], context)[part][0], part=part), latent)
        assert torch.equal(jacobian, jacobian.tril(-1))
        assert (jacobian[torch.tril_indices(D, D, -1).unbind()] != 0).all()


def test_a_bottleneck_is_no_wider_than_the_latent() -> None:
    with pytest.raises(ValueError, match=r"model\.posterior\.bottleneck = 6 is more than model\.latent_dim = 5"):
        build_family(OrthogonalSettings(kind="sylvester-orthogonal", bottleneck=6), D)


def test_a_flow_of_no_maps_is_its_base(generator: Generator) -> None:
    base = DiagonalGaussian(torch.zeros(2, D), torch.zeros(2, D))
    noise = torch.randn(2, D, generator=generator)
    latent, log_density = Flow(base, []).draw(noise)
    assert torch.equal(latent, noise)
    torch.testing.assert_close(log_density, base.log_density(latent))


@on_all
@pytest.mark.parametrize("in_a_graph", [False, True])
def test_settled_parameters_make_the_same_draws(
    settings: PosteriorSettings, in_a_graph: bool, generator: Generator
) -> None:
    family = build_family(settings, D).double()
    base, extra = family.split(raw_of(settings, generator))
    noise = torch.randn(7, 4, D, generator=generator, dtype=torch.float64)
    settled = family.settled(extra, in_a_graph=in_a_graph)
    assert settled.shape == (4, family.extra)
    for found, wanted in zip(
        family.of_settled(base, settled).draw(noise), family.of(base, extra).draw(noise), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_a_matrix_is_made_orthonormal_once_an_image_and_not_once_a_draw(
    monkeypatch: pytest.MonkeyPatch, generator: Generator
) -> None:
    settings = OrthogonalSettings(kind="sylvester-orthogonal", steps=2, bottleneck=3)
    family = build_family(settings, D).double()
    base, extra = family.split(raw_of(settings, generator))
    settled = family.settled(extra)
    q = family.parts(settled)[-1]
    torch.testing.assert_close(q.mT @ q, torch.eye(3, dtype=q.dtype).expand(4, 2, 3, 3))
    monkeypatch.setattr("model.posteriors.families.orthonormal", None)
    family.of_settled(base, settled).draw(torch.zeros(4, D, dtype=torch.float64))


def test_a_fresh_made_keeps_the_size_of_signals_and_says_little(generator: Generator) -> None:
    """Glorot and Bengio (2010): variances of 2 / (inputs + outputs), and a tenth of that scale in the last layers."""
    made = MADE(40, 300, 60)
    for layer, share in (
        (made.first, 1),
        (made.second, 1),
        (made.context, 1),
        (made.last, 0.1),
        (made.from_context, 0.1),
    ):
        variance = share**2 * 2 / sum(layer.weight.shape)
        assert layer.weight.var().item() == pytest.approx(variance, rel=0.05)
        assert layer.bias is None or not layer.bias.any()
    turn = InverseAutoregressive(40, 300, 60, reverse=False)
    latent, log_det = turn(torch.zeros(1, 40), torch.zeros(1, 60))
    assert not latent.any()
    assert log_det.item() == pytest.approx(-40 * math.log1p(math.exp(-2)))
