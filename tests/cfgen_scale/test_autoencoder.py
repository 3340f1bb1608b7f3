"""The autoencoder: its loss is the likelihood, its start is the data's mean, modalities are a tuple."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_matrix

from cfgen_scale.autoencoder import Autoencoder, AutoencoderConfig, ModalityConfig
from cfgen_scale.counter_draws import CounterDraws
from cfgen_scale.counts import SparseCounts
from cfgen_scale.likelihoods import negative_binomial_log_prob
from cfgen_scale.perturbation import Perturbation
from cfgen_scale.types import AtlasSchema, Covariate, Modality

SMALL = AutoencoderConfig(latent=4, hidden=(8,))


def test_loss_is_the_negative_log_likelihood_of_the_decoded_distribution(model_of, counts):
    autoencoder = model_of().autoencoder
    sparse = SparseCounts.from_csr(counts)
    labels = torch.zeros(24, 2, dtype=torch.int64)
    with torch.no_grad():
        loss = autoencoder([sparse], labels).numpy()
        log_l = sparse.totals().log()[:, None]
        log_mean, log_theta = autoencoder.decode(autoencoder.encode([sparse]), log_l, labels)[0]
    mean, theta = log_mean.exp().double().numpy(), log_theta.exp().double().numpy()
    exact = -stats.nbinom.logpmf(counts.toarray(), theta, theta / (theta + mean)).sum(1)
    np.testing.assert_allclose(loss, exact, rtol=1e-4)
    np.testing.assert_allclose(mean.sum(1), counts.sum(1).A1, rtol=1e-4)


def test_untrained_decoder_begins_near_the_mean_expression(schema):
    totals = torch.arange(40.0) * 10
    autoencoder = Autoencoder(SMALL, schema, [totals])
    log_mean, _ = autoencoder.decode(torch.zeros(1, 4), torch.zeros(1, 1), torch.zeros(1, 2).long())[0]
    share = (totals + 1) / (totals + 1).sum()
    assert np.corrcoef(log_mean[0].detach(), share.log())[0, 1] > 0.99


def test_bfloat16_keeps_the_mean_of_every_gene():
    """Among 20,000 genes log shares are about -10, where bfloat16 numbers are 6 % apart."""
    n_genes = 20_000
    schema = AtlasSchema((Modality("rna", "negative_binomial", tuple(map(str, range(n_genes)))),), ())
    totals = torch.linspace(1e3, 3e3, n_genes)
    autoencoder = Autoencoder(AutoencoderConfig(latent=4, hidden=(16,)), schema, [totals])
    z, log_l, labels = torch.randn(64, 4), torch.zeros(64, 1), torch.empty(64, 0, dtype=torch.int64)
    with torch.no_grad():
        exact, _ = autoencoder.decode(z, log_l, labels)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded, _ = autoencoder.decode(z, log_l, labels)[0]
    assert rounded.dtype == torch.float32
    off = (rounded - exact).exp() - 1
    assert off.mean(0).abs().max() < 5e-4, "of no gene is the mean always off to one side"
    assert off.abs().max() < 5e-3


def test_theta_per_level(model_of):
    autoencoder = model_of(theta_by="cell_type").autoencoder
    with torch.no_grad():
        autoencoder.decoders["rna"].log_theta.copy_(torch.arange(4.0)[:, None].expand(4, 40))
    labels = torch.tensor([[2, 0], [0, 1], [-1, 0]])
    _, log_theta = autoencoder.decode(torch.zeros(3, 5), torch.zeros(3, 1), labels)[0]
    assert log_theta.shape == (3, 40)
    assert log_theta[:, 0].tolist() == [2.0, 0.0, 1.5]


def test_thetas_are_taken_from_their_logarithms_once_until_these_change(model_of):
    decoder = model_of(theta_by="cell_type").autoencoder.decoders["rna"]
    with torch.no_grad():
        decoder.log_theta.copy_(torch.arange(4.0)[:, None].expand(4, 40))
    first, again = (decoder.distribution(torch.tensor(levels)) for levels in ([0, 3], [1, -1]))
    assert again.theta is first.theta
    np.testing.assert_allclose(first.theta.values[:, 7], np.exp([0, 1, 2, 3, 1.5]))
    assert again.levels.tolist() == [1, 4]
    decoder.log_theta.data.add_(1.0)  # as an average of weights is put in their place
    changed = decoder.distribution(torch.tensor([0]))
    np.testing.assert_allclose(changed.theta.values[:, 7], np.exp([1, 2, 3, 4, 2.5]))


def test_an_empty_share_of_a_batch_has_zero_gradients_for_every_parameter(model_of):
    """With a short last batch a worker may hold no cell, and still takes part in the step."""
    autoencoder = model_of().autoencoder
    loss = autoencoder([SparseCounts.from_csr(csr_matrix((0, 40)))], torch.empty(0, 2, dtype=torch.int64))
    loss.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in autoencoder.parameters())


@pytest.mark.parametrize("n_modalities", [1, 2, 3])
def test_modalities_are_a_tuple(n_modalities):
    """A second modality is one more entry of the schema; the latent is shared."""
    sizes = (12, 30, 7)[:n_modalities]
    schema = AtlasSchema(
        tuple(Modality(f"m{i}", "negative_binomial", tuple(map(str, range(g)))) for i, g in enumerate(sizes)),
        (Covariate("cell_type", ("a",)),),
    )
    autoencoder = Autoencoder(SMALL, schema, [torch.ones(g) for g in sizes])
    draws = np.random.default_rng(0)
    batch = [SparseCounts.from_csr(csr_matrix(draws.poisson(1.0, (6, g)))) for g in sizes]
    labels = torch.zeros(6, 1, dtype=torch.int64)
    assert autoencoder.encode(batch).shape == (6, 4)
    assert autoencoder(batch, labels).shape == (6,)
    keys = [torch.arange(6)] * n_modalities
    generated = autoencoder.sample(torch.randn(6, 4), torch.zeros(6, n_modalities), labels, keys)
    assert [tuple(g.shape) for g in generated] == [(6, g) for g in sizes]


def perturbation(n=24, **strength):
    return Perturbation(CounterDraws(0, "a test"), torch.arange(n), **strength)


@torch.no_grad()
def test_thinned_cells_are_scored_by_all_their_counts(model_of, counts):
    autoencoder, sparse = model_of().autoencoder, SparseCounts.from_csr(counts)
    labels, disturbed = torch.zeros(24, 2, dtype=torch.int64), perturbation(thinning=0.8)
    z = autoencoder.encode([disturbed.heard(sparse, "rna")])
    expected = -autoencoder.decoders["rna"].log_prob(sparse, z, None)
    torch.testing.assert_close(autoencoder([sparse], labels, disturbed), expected)
    assert (z - autoencoder.encode([sparse])).abs().max() > 0.01


@pytest.mark.parametrize("strength", [{"dropout": 0.5}, {"thinning": 0.5}, {"latent_noise": 0.5}])
@torch.no_grad()
def test_every_perturbation_is_felt_and_is_the_same_again(model_of, counts, strength):
    autoencoder, sparse = model_of().autoencoder, SparseCounts.from_csr(counts)
    labels = torch.zeros(24, 2, dtype=torch.int64)
    found = autoencoder([sparse], labels, perturbation(**strength))
    # A cell of which nearly all is heard may have lost no molecule.
    assert (found != autoencoder([sparse], labels)).float().mean() > 0.8
    assert torch.equal(found, autoencoder([sparse], labels, perturbation(**strength)))


@torch.no_grad()
def test_a_normalised_input_leaves_the_library_size_unheard(model_of, counts):
    twice = [SparseCounts.from_csr(counts), SparseCounts.from_csr(3 * counts)]
    for heard, same in (("normalised", True), ("counts", False), ("expressed", False)):
        autoencoder = model_of(encoder_input=heard).autoencoder
        once, thrice = (autoencoder.encode([c]) for c in twice)
        assert torch.allclose(once, thrice, atol=1e-5) == same, heard


@pytest.mark.parametrize("heard", ["normalised", "expressed"])
@pytest.mark.parametrize("latents", ["joint", "concatenated"])
def test_every_kind_of_counts_can_be_heard_so_and_disturbed(heard, latents):
    autoencoder, cells, labels = of_kinds(
        AutoencoderConfig(latent=6, hidden=(8,), latents=latents, encoder_input=heard)
    )
    strength = {"dropout": 0.2, "thinning": 1.0, "latent_noise": 0.1}
    losses = autoencoder(cells, labels, perturbation(50, **strength))
    assert torch.isfinite(losses).all()
    losses.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in autoencoder.parameters())
    nobody = [SparseCounts.from_csr(csr_matrix((0, g))) for g in SIZES]
    empty = perturbation(0, **strength)
    assert autoencoder(nobody, torch.empty(0, 1, dtype=torch.int64), empty).shape == (0,)


KINDS = ("negative_binomial", "bernoulli", "poisson")
SIZES = (12, 30, 7)


def of_kinds(config=SMALL, **options):
    """An autoencoder of a modality of each kind, m0, m1 and m2, and 50 cells for it."""
    modalities = tuple(
        Modality(f"m{i}", kind, tuple(map(str, range(g))))
        for i, (kind, g) in enumerate(zip(KINDS, SIZES, strict=True))
    )
    schema = AtlasSchema(modalities, (Covariate("cell_type", ("a", "b")),))
    random = np.random.default_rng(0)
    cells = [random.poisson(random.gamma(1.0, 1.0, g), (50, g)) + (np.arange(g) == 0) for g in SIZES]
    totals = [torch.from_numpy(c.sum(0)).float() for c in cells]
    totals[1] = torch.from_numpy((cells[1] > 0).sum(0)).float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        autoencoder = Autoencoder(config, schema, totals, n_cells=50, **options)
    return autoencoder, [SparseCounts.from_csr(csr_matrix(c)) for c in cells], torch.zeros(50, 1).long()


@torch.no_grad()
def test_the_loss_of_several_kinds_is_the_sum_of_their_likelihoods():
    autoencoder, cells, labels = of_kinds()
    log_l = torch.stack([cells[0].totals(), cells[2].totals()], dim=1).log()
    (log_mean, log_theta), (logits, _), (log_rate, _) = autoencoder.decode(
        autoencoder.encode(cells), log_l, labels
    )
    mean, theta = log_mean.exp().double().numpy(), log_theta.exp().double().numpy()
    x = [c.dense().numpy() for c in cells]
    exact = stats.nbinom.logpmf(x[0], theta, theta / (theta + mean)).sum(1)
    exact += stats.bernoulli.logpmf(x[1] > 0, torch.sigmoid(logits.double()).numpy()).sum(1)
    exact += stats.poisson.logpmf(x[2], log_rate.exp().double().numpy()).sum(1)
    np.testing.assert_allclose(autoencoder(cells, labels).numpy(), -exact, rtol=1e-4)
    assert (autoencoder.likelihoods, autoencoder.size_columns) == (KINDS, (0, None, 1))


@torch.no_grad()
def test_untrained_decoders_begin_near_the_means_of_the_cells():
    autoencoder, cells, labels = of_kinds()
    log_l = torch.zeros(1, 2)
    decoded = autoencoder.decode(torch.zeros(1, 4), log_l, labels[:1])
    open_share = (cells[1].dense() > 0).float().mean(0)
    share = cells[2].dense().sum(0) / cells[2].dense().sum()
    assert (torch.sigmoid(decoded[1][0][0]) - open_share).abs().max() < 0.1
    assert (decoded[2][0][0].exp() - share).abs().max() < 0.05


@torch.no_grad()
def test_binarised_counts_are_heard_as_such():
    autoencoder, cells, _ = of_kinds()
    twice = [SparseCounts(c.begins, c.features, 2 * c.values, c.shape) for c in cells]
    apart = autoencoder.encode([cells[0], twice[1], cells[2]]) - autoencoder.encode(cells)
    assert apart.abs().max() == 0
    assert (autoencoder.encode([twice[0], *cells[1:]]) - autoencoder.encode(cells)).abs().max() > 0.01


@torch.no_grad()
def test_draws_of_each_kind_have_its_mean():
    autoencoder, _, labels = of_kinds()
    z, log_l = torch.randn(1, 4).expand(4000, 4), torch.full((4000, 2), 4.0)
    labels = labels[:1].expand(4000, 1)
    keys = [CounterDraws(0, "a test").bits(name, torch.arange(4000)) for name in autoencoder.names]
    drawn_cells = autoencoder.sample(z, log_l, labels, keys)
    (log_mean, _), (logits, _), (log_rate, _) = autoencoder.decode(z[:1], log_l[:1], labels[:1])
    for cells, mean in zip(drawn_cells, (log_mean.exp(), logits.sigmoid(), log_rate.exp()), strict=True):
        drawn = torch.from_numpy(cells.toarray()).double()
        spread = drawn.std(0) / 4000**0.5
        assert ((drawn.mean(0) - mean[0]).abs() < 5 * spread + 1e-3).all()


@torch.no_grad()
def test_concatenated_latents_belong_to_one_modality_each():
    config = AutoencoderConfig(latent=9, hidden=(8,), latents="concatenated")
    autoencoder, cells, labels = of_kinds(config)
    assert autoencoder.parts == (slice(0, 3), slice(3, 6), slice(6, 9))
    z, log_l = autoencoder.encode(cells), torch.zeros(50, 2)
    other = autoencoder.encode([cells[0], cells[1], SparseCounts.from_csr(csr_matrix(np.ones((50, 7))))])
    torch.testing.assert_close(other[:, :6], z[:, :6])
    assert (other[:, 6:] - z[:, 6:]).abs().max() > 0.01
    for m, part in enumerate(autoencoder.parts):
        moved = z.clone()
        moved[:, part] += 1.0
        pairs = zip(
            autoencoder.decode(moved, log_l, labels), autoencoder.decode(z, log_l, labels), strict=True
        )
        assert [bool((a[0] != b[0]).any()) for a, b in pairs] == [i == m for i in range(3)]


@pytest.mark.parametrize(
    ("latent", "given", "sizes"),
    [
        (9, {}, (3, 3, 3)),
        (10, {}, (4, 3, 3)),
        (9, {"m1": 5}, (2, 5, 2)),
        (6, {"m0": 1, "m1": 2, "m2": 3}, (1, 2, 3)),
    ],
)
def test_how_concatenated_latents_are_shared_out(latent, given, sizes):
    config = AutoencoderConfig(
        latent=latent,
        hidden=(8,),
        latents="concatenated",
        modalities={name: ModalityConfig(latent=d, hidden=(6, 5)) for name, d in given.items()},
    )
    autoencoder, cells, labels = of_kinds(config)
    assert tuple(part.stop - part.start for part in autoencoder.parts) == sizes
    assert autoencoder.encode(cells).shape == (50, latent)
    assert torch.isfinite(autoencoder(cells, labels)).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"modalities": {"atac": ModalityConfig()}}, r"no modality 'atac'.*m0, m1, m2"),
        ({"modalities": {"m0": ModalityConfig(latent=3)}}, "latents are joint"),
        ({"latents": "concatenated", "latent": 2}, "cannot be shared out"),
        ({"latents": "concatenated", "modalities": {"m0": ModalityConfig(latent=9)}}, "cannot be shared out"),
    ],
)
def test_latents_that_cannot_be_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        of_kinds(AutoencoderConfig(**{"latent": 9, "hidden": (8,), **config}))


def test_an_empty_share_of_a_batch_works_for_every_kind():
    autoencoder, _, _ = of_kinds()
    nobody = [SparseCounts.from_csr(csr_matrix((0, g))) for g in SIZES]
    autoencoder(nobody, torch.empty(0, 1, dtype=torch.int64)).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in autoencoder.parameters())


def test_theta_per_level_is_for_the_modalities_that_have_it(schema):
    two = AtlasSchema(
        (*schema.modalities, Modality("protein", "negative_binomial", ("p0", "p1"))), schema.covariates
    )
    config = AutoencoderConfig(
        latent=4,
        hidden=(8,),
        theta_by="cell_type",
        modalities={"protein": ModalityConfig(theta_per_level=False)},
    )
    autoencoder = Autoencoder(config, two, [torch.ones(40), torch.ones(2)])
    labels = torch.tensor([[2, 0], [-1, 0]])
    (_, of_rna), (_, of_protein) = autoencoder.decode(torch.zeros(2, 4), torch.zeros(2, 2), labels)
    assert (of_rna.shape, of_protein.shape) == ((2, 40), (2,))


def test_training_recovers_the_dispersions_of_each_level():
    """Two levels with theta 0.4 and 12 and the same means: within a tenth over genes, a third for each."""
    thetas, n, g = (0.4, 12.0), 3000, 20
    random = np.random.default_rng(0)
    level = np.arange(n) % 2
    theta = np.array(thetas)[level][:, None]
    mean = np.linspace(10, 60, g)
    x = random.poisson(random.gamma(np.broadcast_to(theta, (n, g)), mean / theta)) + (np.arange(g) == 0)
    schema = AtlasSchema(
        (Modality("rna", "negative_binomial", tuple(map(str, range(g)))),), (Covariate("level", ("a", "b")),)
    )
    config = AutoencoderConfig(latent=1, hidden=(4,), theta_by="level")
    autoencoder = Autoencoder(config, schema, [torch.from_numpy(x.sum(0)).float()])
    decoder = autoencoder.decoders["rna"]
    counts, levels = SparseCounts.from_csr(csr_matrix(x)), torch.from_numpy(level)
    logits, log_l = torch.from_numpy(mean).float().log().expand(n, g), torch.full((n,), mean.sum()).log()
    optimiser = torch.optim.Adam([decoder.log_theta], lr=0.2)
    for _ in range(50):
        table, rows = decoder.theta_table(levels)
        loss = -negative_binomial_log_prob(counts, logits, log_l.float(), table, rows).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    fitted = decoder.log_theta.detach()[:, 1:]
    np.testing.assert_allclose(fitted.mean(1).exp(), thetas, rtol=0.1)
    assert (fitted - torch.tensor(thetas).log()[:, None]).abs().max() < 0.35


def test_training_lowers_the_loss(schema, counts):
    autoencoder = Autoencoder(SMALL, schema, [torch.ones(40)])
    batch, labels = [SparseCounts.from_csr(counts)], torch.zeros(24, 2, dtype=torch.int64)
    optimiser = torch.optim.Adam(autoencoder.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = autoencoder(batch, labels).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
