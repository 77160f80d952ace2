"""Products of rows with the matrices of their experts, all experts in one operator."""

from __future__ import annotations

from secateur.tracing.labels import Labels
from secateur.tracing.rules.call import Call, rule
from secateur.tracing.rules.contraction import CONTRACTIONS, contract

CONTRACTIONS.add("_grouped_mm")


@rule("_grouped_mm")
def _grouped_product(labels: Labels, call: Call) -> None:
    """Each row meets the matrix of one expert: all experts lose the same inputs and outputs."""
    rows, matrices = call.args[:2]
    if rows.ndim != 2 or matrices.ndim != 3 or call.argument("bias") is not None:
        raise ValueError("only (rows, in) times (experts, in, out) is followed")
    planes = contract(labels, call, ((rows, "ri"), (matrices, "eio")), "ro", "linear")
    labels.put(call.outputs[0], planes, is_data=labels.any_data(call.inputs))
