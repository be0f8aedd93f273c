"""The genetic search for cuts of HuSCF-GAN's authors, to compare: no better than the exact one, and slower."""

from __future__ import annotations

import numpy as np

from collafuse_flwr.core.errors import UserError
from collafuse_flwr.core.rng import derive_seed
from collafuse_flwr.gan.networks import Cuts
from collafuse_flwr.gan.planning.cut_planner import KEEP_LEAST, CutPlan, bounds, finished
from collafuse_flwr.gan.planning.latency_model import FloatArray, IntArray, LatencyModel

#: Individuals that compete for a place among the parents, and how often parents are crossed and genes redrawn.
TOURNAMENT, CROSSOVER, MUTATION = 5, 0.7, 0.01


def evolve_cuts(
    model: LatencyModel,
    least: Cuts = KEEP_LEAST,
    *,
    population: int = 1000,
    generations: int = 100,
    seed: int = 0,
) -> CutPlan:
    """The best individual of the last generation: a gene is the number of extra blocks at one end of one client.

    Parents win tournaments; crossing is uniform half of the time and between two points otherwise; nobody survives.
    Theirs has 1000 generations, a fitness that is computed anew for every tournament, and clients four at a time.

    Args:
        model: of the time, with a kind for each client (`alike=False`).
        least: extra blocks that every client keeps.
        population: individuals, of whom an odd one is not crossed.
        generations: how often they are replaced.
        seed: of the run.

    Raises:
        UserError: nothing that is allowed was found.
    """
    rng = np.random.default_rng(derive_seed(seed, "genetic"))
    low, high = (bound.ravel() for bound in bounds(model, least))
    genes = rng.integers(low, high + 1, (population, low.size))
    for _ in range(generations):
        fitness = _fitness(model, genes)
        rivals = rng.integers(population, size=(population, TOURNAMENT))
        parents = genes[rivals[np.arange(population), fitness[rivals].argmin(1)]]
        children = _cross(parents, rng)
        redrawn = rng.random(children.shape) < MUTATION
        # A bit that is redrawn flips; of more levels any other is as likely.
        other = low + (children - low + rng.integers(1, np.maximum(high - low, 1) + 1, children.shape)) % (
            high - low + 1
        )
        genes = np.where(redrawn, other, children)
    fitness = _fitness(model, genes)
    if np.isinf(fitness.min()):
        raise UserError("`cut_planner.algorithm` = genetic found no cuts that fit the memory; exact finds them")
    return finished(model, genes[fitness.argmin()].reshape(4, -1))


def _fitness(model: LatencyModel, genes: IntArray) -> FloatArray:
    """Seconds of an iteration, infinite where a client's memory does not suffice."""
    extra = genes.reshape(len(genes), 4, -1)
    fits = (model.memory(extra) <= model.capacity()).all(-1)
    return np.where(fits, model.seconds(extra), np.inf)


def _cross(parents: IntArray, rng: np.random.Generator) -> IntArray:
    """Neighbouring parents, two by two, with some genes exchanged."""
    pairs, size = len(parents) // 2, parents.shape[1]
    one, other = parents[: 2 * pairs].reshape(pairs, 2, size).swapaxes(0, 1)
    ends = np.sort(rng.integers(size + 1, size=(pairs, 2)), 1)
    between = (np.arange(size) >= ends[:, :1]) & (np.arange(size) < ends[:, 1:])
    uniform = rng.random((pairs, size)) < 0.5
    exchanged = np.where(rng.random((pairs, 1)) < 0.5, uniform, between) & (rng.random((pairs, 1)) < CROSSOVER)
    crossed = np.where(exchanged, other, one), np.where(exchanged, one, other)
    return np.concatenate([*crossed, parents[2 * pairs :]])
