"""FLOPs counted from the file alone are those that torch counts."""

import pytest

from onnx_models import MODELS, mlp
from secateur.deploy import export
from secateur.deploy.onnx_flops import count_flops
from secateur.measurement import count_flops as torch_flops

pytest.importorskip("onnxscript")


def rows(example):
    return example[0].shape[0] if isinstance(example, tuple) else example.shape[0]


@pytest.mark.parametrize("make", MODELS)
def test_two_counters_agree_on_the_flops(make, tmp_path):
    model, example = make()
    path = export(model, example, tmp_path / "small.onnx", check=False)
    assert count_flops(path, batch=rows(example)) == torch_flops(model, example) > 0


def test_flops_follow_the_batch(tmp_path):
    path = export(*mlp(), tmp_path / "small.onnx", check=False)
    assert count_flops(path, batch=8) == 8 * count_flops(path)


def test_an_operator_of_unknown_cost_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("Einsum", ["x", "y"], ["z"], equation="ij,jk->ik", name="product")
    value = [helper.make_tensor_value_info(name, number, [2, 2]) for name in "xyz"]
    model = helper.make_model(helper.make_graph([node], "g", value[:2], value[2:]))
    onnx.save(model, tmp_path / "einsum.onnx")
    with pytest.raises(ValueError, match="Einsum product"):
        count_flops(tmp_path / "einsum.onnx")
