"""Labels to latents to counts: in one call or in two, at once or later, each cell by its own place."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cfgen_scale.types import GeneratedCells

WEIGHTS = [2.0, 1.0]


@pytest.fixture(params=[None, "cell_type"], ids=["theta per gene", "theta per gene and level"])
def model(request, model_of):
    made = model_of(theta_by=request.param, size_factors_by="cell_type", size_factor_told=True)
    if request.param:
        with torch.no_grad():
            made.autoencoder.decoders["rna"].log_theta.copy_(torch.linspace(-2, 4, 160).view(4, 40))
    return made


@pytest.fixture
def labels(model):
    drawn = model.draw_labels(150, {}, seed=0)
    drawn[::7] = -1
    return drawn


def latents(model, labels, **address):
    return model.draw_latents(labels, guidance=WEIGHTS, **{"seed": 3, "index": 5} | address)


def same(a: GeneratedCells, b: GeneratedCells) -> bool:
    counts = len(a.counts) == len(b.counts) and all(
        np.array_equal(x.toarray(), y.toarray()) for x, y in zip(a.counts, b.counts, strict=True)
    )
    return counts and all(
        np.array_equal(getattr(a, part), getattr(b, part)) for part in ("labels", "log_size_factor", "latent")
    )


def test_stored_latents_are_decoded_to_the_same_counts(model, labels, tmp_path):
    at_once = model.generate_cells(labels, guidance=WEIGHTS, seed=3, index=5)
    made = latents(model, labels)
    assert made.counts == ()
    assert made.latent.dtype == made.log_size_factor.dtype == np.float32
    np.savez(tmp_path / "stored", labels=made.labels, log_l=made.log_size_factor, latent=made.latent)
    torch.manual_seed(8)
    with np.load(tmp_path / "stored.npz") as stored:
        read = GeneratedCells((), stored["labels"], stored["log_l"], stored["latent"])
    assert same(model.decode_cells(read, seed=3, index=5), at_once)
    assert not same(model.decode_cells(read, seed=3, index=6), at_once)
    assert not same(model.decode_cells(read, seed=4, index=5), at_once)


def test_counts_are_canonical_csr(model, labels):
    (counts,) = model.generate_cells(labels, guidance=WEIGHTS, seed=0).counts
    assert counts.shape == (150, 40)
    assert counts.data.dtype == np.int32
    assert counts.data.min() >= 1
    assert counts.has_sorted_indices


def test_what_is_drawn_for_a_cell_does_not_depend_on_the_cells_behind_it(model, labels):
    """Up to the rounding of products over another number of rows."""
    few, all_ = latents(model, labels[:20]), latents(model, labels)
    np.testing.assert_array_equal(few.log_size_factor, all_.log_size_factor[:20])
    np.testing.assert_allclose(few.latent, all_.latent[:20], atol=1e-4)
    (of_few,), (of_all,) = (model.decode_cells(cells, seed=3, index=5).counts for cells in (few, all_))
    assert np.mean(of_few.toarray() == of_all[:20].toarray()) > 0.99


def test_a_chunk_of_no_cells(model):
    cells = model.generate_cells(np.empty((0, 2), np.int64), guidance=WEIGHTS, seed=0)
    assert cells.counts[0].shape == (0, 40)
    assert cells.latent.shape == (0, 5)


def test_counts_have_the_decoded_means_and_variances(model):
    """One latent, 20,000 cells: of every gene within 5 standard errors."""
    n = 20_000
    made = latents(model, np.array([[1, 0]]))
    cells = GeneratedCells(
        (),
        *(
            np.repeat(part, n, axis=0)
            for part in (made.labels, np.full((1, 1), 5.0, np.float32), made.latent)
        ),
    )
    counts = model.decode_cells(cells, seed=0).counts[0].toarray()
    with torch.no_grad():
        z = model.whitening.colour(torch.from_numpy(made.latent))
        log_mean, log_theta = model.autoencoder.decode(z, torch.full((1, 1), 5.0), torch.tensor([[1, 0]]))[0]
    mean, theta = log_mean[0].exp().numpy(), log_theta.flatten().exp().numpy()
    variance = mean + mean**2 / theta
    assert (np.abs(counts.mean(0) - mean) < 5 * np.sqrt(variance / n)).all()
    often = mean > 0.5
    assert often.any()
    np.testing.assert_allclose(counts.var(0)[often], variance[often], rtol=0.15)


def test_cells_are_drawn_about_their_latents_as_the_decoder_learned_them(model_of):
    """With noise the counts of one latent vary more, by what the means at noisy latents do."""
    model, quiet = model_of(latent_noise=0.8), model_of()
    for made in (model, quiet):
        with torch.no_grad():
            for layer in made.autoencoder.decoders.parameters():
                layer.mul_(8 if layer.ndim > 1 else 1)
            made.autoencoder.decoders["rna"].log_theta.fill_(4.0)
    labels = np.zeros((4000, 2), dtype=np.int64)
    latents = model.draw_latents(labels, guidance=[1, 1], seed=0)
    one = replace(
        latents,
        latent=np.repeat(latents.latent[:1], 4000, axis=0),
        log_size_factor=np.full((4000, 1), 8.0, dtype=np.float32),
    )
    variances = [m.decode_cells(one, seed=0).counts[0].toarray().var(0).sum() for m in (model, quiet)]
    z = model.whitening.colour(torch.from_numpy(one.latent))
    about = z + 0.8 * z.square().mean(1, keepdim=True).sqrt() * torch.randn(
        z.shape, generator=torch.Generator().manual_seed(0)
    )
    sizes, levels = torch.full((4000, 1), 8.0), torch.from_numpy(labels)
    with torch.no_grad():
        means, theta = model.autoencoder.decode(about, sizes, levels)[0]
    mean = means.exp()
    expected = (mean.var(0) + (mean + mean**2 / theta.exp()).mean(0)).sum().item()
    assert variances[0] == pytest.approx(expected, rel=0.1)
    assert variances[0] > 1.3 * variances[1]
    again = model.decode_cells(one, seed=0)
    assert (again.counts[0] != model.decode_cells(one, seed=0).counts[0]).nnz == 0
