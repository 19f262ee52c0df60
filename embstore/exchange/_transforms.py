"""A table's transforms as the chain of a FAISS `IndexPreTransform`, and such a chain as transforms.

FAISS applies a chain to rows when they are added and to queries when they are searched for, and undoes it when rows are
reconstructed. A chain of rotations and projections keeps squared distances, but for what projections leave out, which
is the same for every row. Inner products it keeps only where no mean is taken off.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..method import Named
from ..pipeline import Pipeline
from ..transform import Transform
from ..transforms.center import Center
from ..transforms.opq import OPQ
from ..transforms.pca import PCA
from ._codes import DECODE, F32, RE_ENCODE, array, spread

# How far from 0 and 1 the products of components may be: of those in float32 they are a hundredth of it.
ORTHONORMAL = 1e-4


def to_chain(faiss: Any, pipeline: Pipeline, shared: dict[str, npt.NDArray[Any]], dim: int, metric: int) -> list[Any]:
    """FAISS transforms, in the order rows pass them. `dim` : values of a row as the table gives them.

    Raises `ConfigError` for a transform that FAISS cannot undo, and a mean under inner products.
    """
    chain: list[Any] = []
    for i, transform in enumerate(pipeline.transforms):
        own = pipeline.shared_of(shared, i)
        if transform.id not in ("truncate", "center", "pca", "opq", "rotate"):
            raise ConfigError(
                f"FAISS has no transform that is undone as {transform.id!r} is, found it in the table; {RE_ENCODE}"
            )
        if "mean" in own and own["mean"].any():
            if metric != faiss.METRIC_L2:
                raise ConfigError(
                    f"FAISS takes the mean of {transform.id!r} off queries too, which changes inner products; "
                    f'pass metric="l2", or {RE_ENCODE}'
                )
            chain.append(_centering(faiss, own["mean"]))
        if transform.id == "rotate":
            chain.append(_linear(faiss, transform.apply(own, np.eye(dim, dtype=np.float32)).T, transform.id))
        elif "components" in own:
            chain.append(_linear(faiss, own["components"], transform.id))
        dim = dim if transform.id == "truncate" else transform.code_dim(dim)
    return chain


def _centering(faiss: Any, mean: F32) -> Any:
    centering = faiss.CenteringTransform(len(mean))
    faiss.copy_array_to_vector(np.ascontiguousarray(mean, np.float32), centering.mean)
    centering.is_trained = True
    return centering


def _linear(faiss: Any, components: F32, what: str) -> Any:
    linear = faiss.LinearTransform(components.shape[1], components.shape[0], False)
    faiss.copy_array_to_vector(np.ascontiguousarray(components, np.float32).ravel(), linear.A)
    linear.is_trained = True
    linear.set_is_orthonormal()
    if not linear.is_orthonormal:
        raise ConfigError(
            f"FAISS undoes only components of length 1 at right angles, found others in {what!r}; {RE_ENCODE}"
        )
    return linear


def from_chain(faiss: Any, chain: list[Any], m: int, bits: int) -> tuple[list[tuple[Transform, Named]], int]:
    """Transforms with their arrays, and the values of a row that the index has codes for.

    m, bits : of the index's product codes, 0 for other codes. Before the former a rotation is `opq`, else `pca`, and
        padding to slices of one width is known as such.

    Raises `ConfigError` for a transform that nothing here undoes as FAISS does.
    """
    found: list[tuple[Transform, Named]] = []
    dim = int(chain[0].d_in) if chain else 0
    for at, step in enumerate(chain):
        kind = type(step)
        if int(step.d_in) != dim:
            raise ConfigError(
                f"transform {at} of a FAISS index must take {dim} values, found {step.d_in}; mend the file"
            )
        if isinstance(step, faiss.LinearTransform):
            dim = _add_linear(found, step, m, bits)
        elif kind is faiss.CenteringTransform:
            found.append((Center(), {"mean": _checked(array(step.mean), dim)}))
        elif kind is faiss.NormalizationTransform and not found:
            pass  # FAISS leaves the length out when it undoes this.
        elif kind is faiss.RemapDimensionsTransform and at == len(chain) - 1 and _is_spread(step, m):
            pass
        else:
            raise ConfigError(
                f"transforms of a FAISS index must be linear or centering, found {kind.__name__}; {DECODE}"
            )
    return found, dim


def _is_spread(step: Any, m: int) -> bool:
    return 1 <= m <= step.d_in and np.array_equal(array(step.map), spread(int(step.d_in), m))


def _checked(values: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    if len(values) != count or not np.isfinite(values).all():
        raise ConfigError(f"a FAISS transform must have {count} finite values, found others; write the file again")
    return values


def _add_linear(found: list[tuple[Transform, Named]], step: Any, m: int, bits: int) -> int:
    before, after = int(step.d_in), int(step.d_out)
    components = _checked(array(step.A), after * before).reshape(after, before)
    # Not by `is_orthonormal`, which a file may have wrong.
    with np.errstate(all="ignore"):
        orthonormal = after <= before and np.allclose(components @ components.T, np.eye(after), atol=ORTHONORMAL)
    if not orthonormal:
        raise ConfigError(
            f"a linear transform of a FAISS index must have orthonormal rows to be undone, found {after} x {before} "
            "others; compress the rows the index was made from"
        )
    bias = _checked(array(step.b), after) if step.have_bias else np.zeros(0, np.float32)
    if m and not bias.any():
        found.append((OPQ(m=min(m, after), dim=after, bits=bits), {"components": components}))
        return after
    mean = -(bias @ components) if len(bias) else np.zeros(before, np.float32)
    if found and found[-1][0].id == "center" and not len(bias):
        mean = found.pop()[1]["mean"]
    found.append((PCA(dim=after), {"mean": mean.astype(np.float32), "components": components}))
    return after
