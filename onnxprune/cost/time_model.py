"""Latency as a function of how many units of each group are removed, fitted to measured times.

The time of a kernel is fitted as a sum of products of its axis lengths, rounded up to the blocks that engines compute
in, with coefficients of at least zero. What is fitted are the kernels of one heavy node (a convolution, a matrix
product) and of the light ones that follow it, as engines fuse them: a *site*.

Times of whole models are fitted by what sites of one kind have in common and by how single sites differ from it.
Where an engine tells the times of its kernels, each site is fitted to them as well, and the mean of both fits is taken:
errors of the profiler and of pooling do not agree.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.cost.cost_model import counted_terms, owned_indices
from onnxprune.cost.macs import graph_with_shapes
from onnxprune.cost.nonnegative import RIDGE, nonnegative_least_squares
from onnxprune.cost.step_products import StepCost, StepProduct, StepProducts
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.engines.times import Times
from onnxprune.errors import InputError
from onnxprune.graph.graph import Axis, Node, Value

BLOCKS = (1, 4, 8, 16, 32)
"""Block sizes that are tried: vectors of 4 to 16 numbers on CPUs, tiles of 8 to 32 on GPUs."""
ODD = (2, 4)
"""Multiples off which engines are known to leave a fast path."""

Array = NDArray[np.float64]


@dataclass
class Site:
    """A heavy node with the light ones that follow it.

    Attributes:
        kind: What sites with the same code in the engine have in common.
        macs: Shrinking axis classes -> what their lengths are multiplied with, of the multiply-accumulates.
        elements: The same of the elements that are written.
    """

    kind: tuple[str, ...]
    macs: dict[tuple[int, ...], float] = field(default_factory=dict)
    elements: dict[tuple[int, ...], float] = field(default_factory=dict)


def latency(coupling: Coupling, groups: Sequence[Group], shapes: Mapping[str, Sequence[int]], times: Times) -> StepCost:
    """The latency in milliseconds.

    Args:
        coupling: The analysed graph.
        groups: The groups that may shrink.
        shapes: Concrete shapes of the main graph's values before pruning.
        times: What was measured.

    Raises:
        InputError: The times are of other groups.
        LookupError: A shape that the widths of a layer follow from is not known.
    """
    measured = _measured_groups(coupling, times)
    unknown = [g.name for g in groups if times.units.get(g.name) != g.units]
    if unknown:
        raise InputError(
            f"the times know nothing of group {unknown[0]!r}", "measure with the same scope (mixing, attention, shrink)"
        )
    lengths, slopes, index = _lengths(coupling, measured)
    sites, site_of = find_sites(coupling, index, shapes)
    removed = np.array([[row.removed.get(g.name, 0) for g in measured] for row in times.rows], dtype=np.int64)
    at = lengths - removed @ slopes.T
    totals = np.array([row.ratio for row in times.rows]) * times.milliseconds
    products, weights, fixed = _as_a_whole(sites, at, lengths, totals)
    if any(row.nodes for row in times.rows):
        more, others = _by_site(sites, site_of, times, at, lengths, totals)
        products, weights, fixed = products + more, np.concatenate([weights / 2, others / 2]), fixed / 2
    columns = {g.name: i for i, g in enumerate(measured)}
    return StepCost(products, weights, lengths, slopes[:, [columns[g.name] for g in groups]], fixed)


def _measured_groups(coupling: Coupling, times: Times) -> list[Group]:
    by_name = {g.name: g for g in coupling.groups}
    for name, units in times.units.items():
        if name not in by_name or by_name[name].units != units:
            raise InputError(
                f"the times are of a group {name!r} of {units} units, which the model lacks",
                "they fit the model that they were measured with, and its scope (mixing, attention, shrink)",
            )
    return [by_name[name] for name in times.units]


def _lengths(
    coupling: Coupling, groups: Sequence[Group]
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[int, int]]:
    """Lengths of the axis classes that the groups own, how one unit of each shrinks them, and class -> its position."""
    owned = owned_indices(coupling, groups)
    index = {c: i for i, c in enumerate(sorted(owned))}
    slopes = np.zeros((len(index), len(groups)), dtype=np.int64)
    for c, i in index.items():
        for g, k in owned[c].items():
            slopes[i, g] = k
    lengths = np.array([coupling.classes.length[c] for c in index], dtype=np.int64)
    return lengths, slopes, index


def find_sites(
    coupling: Coupling, index: Mapping[int, int], shapes: Mapping[str, Sequence[int]]
) -> tuple[list[Site], dict[str, int]]:
    """The sites of the main graph, and the site of each node by its first output.

    Args:
        coupling: The analysed graph.
        index: Shrinking axis class -> its number.
        shapes: Concrete shapes of the main graph's values.
    """
    concrete = graph_with_shapes(coupling.graph.proto, shapes).main.names
    sites: list[Site] = []
    of: dict[str, int] = {}
    for node, found in counted_terms(coupling, shapes):
        name = _first_output(node)
        if any(factor for factor, _ in found):
            of[name] = len(sites)
            sites.append(Site(_kind(node, found)))
            for factor, axes in found:
                _add(sites[-1].macs, coupling, index, factor, axes)
        else:
            before = [of[v.name] for v in node.inputs if v is not None and v.name in of]
            of[name] = max(before, default=len(sites))
            if not before:
                sites.append(Site((node.op_type,)))
        for value in node.outputs:
            if value is not None:
                of.setdefault(value.name, of[name])
                free = _free_lengths(value, concrete.get(value.name))
                if free is not None:
                    _add(sites[of[name]].elements, coupling, index, free, value.axes())
    return sites, of


def _free_lengths(value: Value, known: Value | None) -> float | None:
    """The product of the lengths that are free in a value, from one of known shape; None where that is not known."""
    if known is None or known.shape is None or value.shape is None or len(known.shape) != len(value.shape):
        return None
    if not all(isinstance(length, int) for length in known.shape):
        return None
    pairs = zip(value.axes(), known.axes(), strict=True)
    return math.prod((there.length or 0) / (a.width or 1) for a, there in pairs if a.length is None)


def _first_output(node: Node) -> str:
    return next((name for name in node.proto.output if name), "")


def _kind(node: Node, terms: Iterable[tuple[float, Sequence[Axis]]]) -> tuple[str, ...]:
    """What decides which code of an engine computes a node: the operator, whether it has a window, and groups."""
    weights = [axis for _, axes in terms for axis in axes if axis.value.tensor is not None]
    window = any((axis.length or 0) > 1 and axis.position > 1 for axis in weights)
    grouped = int(node.attribute("group", 1)) > 1
    return node.op_type, "window" if window else "", "groups" if grouped else ""


def _add(
    to: dict[tuple[int, ...], float], coupling: Coupling, index: Mapping[int, int], factor: float, axes: Iterable[Axis]
) -> None:
    """Adds a product of lengths: fixed ones are multiplied into the factor."""
    shrinking = []
    for axis in axes:
        i = index.get(int(coupling.classes.of[axis.id]))
        if i is not None:
            shrinking.append(i)
        elif axis.width is not None:
            factor *= axis.width
    key = tuple(shrinking)
    to[key] = to.get(key, 0.0) + factor


def _features(site: Site, lengths: NDArray[np.int64]) -> list[tuple[StepProduct, float]]:
    """Products that the time of a site may consist of, each with what makes it 1 before removal; a constant first."""
    found = [(StepProduct(), 1.0)]
    for axes in site.macs:
        found += _variants(axes, lengths)
    for axes in site.elements:
        if axes not in site.macs:
            found += _variants(axes, lengths)
    return found


def _variants(axes: tuple[int, ...], lengths: NDArray[np.int64]) -> list[tuple[StepProduct, float]]:
    """A product with its lengths rounded up in several ways."""
    if not axes:
        return []
    sizes = [[b for b in BLOCKS if b == 1 or b <= 2 * lengths[a]] for a in axes]
    combined = itertools.product(*sizes) if len(axes) <= 2 else ((b,) * len(axes) for b in BLOCKS)
    products = [StepProduct(axes, tuple(blocks)) for blocks in combined]
    products += [StepProduct(axes, (1,) * len(axes), (j, m)) for j in range(len(axes)) for m in ODD]
    whole = math.prod(float(lengths[a]) for a in axes)
    return [(product, 1.0 / whole) for product in products]


def _by_site(
    sites: Sequence[Site],
    site_of: Mapping[str, int],
    times: Times,
    at: NDArray[np.int64],
    lengths: NDArray[np.int64],
    totals: Array,
) -> tuple[list[StepProduct], Array]:
    """Fits each site to the times of its kernels, and their sum to the times of whole models."""
    spent = np.zeros((len(times.rows), len(sites)))
    for i, row in enumerate(times.rows):
        for name, ms in row.nodes.items():
            if name in site_of:
                spent[i, site_of[name]] += ms
    spent *= (totals / np.maximum(spent.sum(axis=1), 1e-12))[:, None]  # as fast as the machine was meanwhile
    profiled = np.array([bool(row.nodes) for row in times.rows])
    products: list[StepProduct] = []
    weights: list[float] = []
    for s, site in enumerate(sites):
        if not spent[:, s].any():
            continue
        features = _features(site, lengths)
        values = StepProducts([p for p, _ in features], len(lengths)).values(at[profiled])
        scale = np.array([w for _, w in features])
        x = _relative_fit(values * scale, spent[profiled, s], 1e-4)
        products += [p for p, _ in features]
        weights += list(x * scale)
    # The profiler adds to every kernel what no width changes.
    found, constant = np.array(weights), np.array([not p.axes for p in products])
    parts = StepProducts(products, len(lengths)).values(at) * found
    sums = np.stack([parts[:, constant].sum(axis=1), parts[:, ~constant].sum(axis=1)], axis=1)
    shares = _relative_fit(sums / totals.mean(), totals) / totals.mean()
    return products, found * np.where(constant, shares[0], shares[1])


def _relative_fit(features: Array, times: Array, ridge: float = RIDGE) -> Array:
    """Fits times by their relative errors: the slow widths are not those that an allocation ends with."""
    weights = 1.0 / np.maximum(times, 0.2 * times.mean())
    return nonnegative_least_squares(features * weights[:, None], times * weights, ridge)


RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Penalties of sites that differ from what sites of their kind have in common; cross-validation chooses one."""


def _as_a_whole(
    sites: Sequence[Site], at: NDArray[np.int64], lengths: NDArray[np.int64], totals: Array
) -> tuple[list[StepProduct], Array, float]:
    """Fits the times of whole models: first what sites of one kind have in common, then each site by itself."""
    columns: dict[Any, int] = {}
    owner: list[int] = []  # site of each product
    column: list[int] = []  # column of each product
    products: list[StepProduct] = []
    factors: list[float] = []
    for s, site in enumerate(sites):
        for what, terms in (("macs", site.macs), ("elements", site.elements)):
            for axes, factor in terms.items():
                for product, _ in _variants(axes, lengths):
                    key = site.kind, what, product.blocks, product.odd
                    products.append(product)
                    factors.append(factor)
                    owner.append(s)
                    column.append(columns.setdefault(key, len(columns)))
    values = StepProducts(products, len(lengths)).values(at) * np.array(factors)
    pooled = np.zeros((len(at), len(columns) + 1))
    np.add.at(pooled.T, column, values.T)
    pooled[:, -1] = 1.0
    scale = 1.0 / np.maximum(pooled.mean(axis=0), 1e-300)
    x = _relative_fit(pooled * scale, totals, 1e-3) * scale
    weights, fixed = x[column] * np.array(factors), float(x[-1])
    by_site = np.zeros((len(at), len(sites)))
    np.add.at(by_site.T, owner, (values * x[column]).T)
    more = _deviations(by_site, totals - fixed - by_site.sum(axis=1), totals)
    return products, weights * (1.0 + more[owner]), fixed


def _deviations(by_site: Array, residuals: Array, totals: Array) -> Array:
    """By which shares of its time each site differs from its kind, by ridge regression with leave-one-out errors.

    See Golub, Heath and Wahba, "Generalized cross-validation as a method for choosing a good ridge parameter",
    Technometrics 1979, section 1, for the errors in closed form.
    """
    x, y = by_site / totals[:, None], residuals / totals
    gram = x @ x.T
    unit = float(np.trace(gram)) / max(len(gram), 1)
    best, error = np.zeros(by_site.shape[1]), float((y**2).mean())
    for ridge in RIDGES if unit > 0 else ():
        inverse = np.linalg.inv(gram + ridge * unit * np.eye(len(gram)))
        solved = inverse @ y
        left_out = float(((solved / np.diag(inverse)) ** 2).mean())
        if left_out < error:
            best, error = np.maximum(x.T @ solved, -0.9), left_out
    return best
