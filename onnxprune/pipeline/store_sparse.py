"""The stage that stores weights as sparse tensors, and sees whether they are read back as they were."""

from __future__ import annotations

from onnxprune.errors import VerificationError
from onnxprune.model import sparse_initializers
from onnxprune.model.model import Model
from onnxprune.model.sparse_initializers import SparseStorage
from onnxprune.options import Checks
from onnxprune.verification import check as verification


def store(model: Model, checks: Checks, seed: int = 0) -> SparseStorage:
    """Makes weights sparse where that is smaller, in place.

    Unless `checks` forbid it, the model is run in both forms; all is kept dense where onnxruntime does not make the
    same of them to the last bit.
    """
    dense = model.copy()
    done = sparse_initializers.store_sparse(model)
    if done.bytes and checks.verify:
        fault = _fault(dense, model, checks, seed)
        if fault is not None:
            model.proto.CopyFrom(dense.proto)
            done = SparseStorage(dense_because=fault)
    done.gzip = sparse_initializers.gzip_bytes(model)
    return done


def _fault(dense: Model, sparse: Model, checks: Checks, seed: int = 0) -> str | None:
    """Why the sparse form cannot be used in onnxruntime; None if it can."""
    try:
        check = verification.check(dense, sparse, input_shapes=checks.input_shapes, seed=seed)
    except VerificationError as error:
        return f"onnxruntime does not take it: {error}"
    if not check.verified:
        return f"whether onnxruntime takes it cannot be seen here: {check.reason}"
    moved = any(d.max_abs or d.within(0.0) is False for d in check.drift.values())
    return "onnxruntime reads other weights from it" if moved else None
