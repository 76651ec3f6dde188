"""What a graph costs: work, weights, traffic and the memory of its activations, on graphs small enough to count."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from builder.buffers import Buffer, live_bytes, placed_bytes
from builder.errors import ExportError
from builder.graph_cost import graph_cost

FLOAT, HALF, INT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8
SIDE = 32
MAP = SIDE * SIDE * 4
"""Bytes of one FP32 channel."""


def conv(source, result, inputs, outputs, kernel=1, dtype=np.float32, **attributes):
    """A convolution that keeps the size, and its weights."""
    weights = numpy_helper.from_array(np.ones((outputs, inputs, kernel, kernel), dtype), f"{result}_w")
    pads = [kernel // 2] * 4
    return helper.make_node("Conv", [source, f"{result}_w"], [result], name=result, pads=pads, **attributes), weights


@pytest.fixture
def graph(tmp_path):
    """``graph(nodes, initializers, channels, outputs)``: a file with ``x`` [batch, channels, 32, 32] as its input."""

    def write(nodes, initializers=(), channels=4, outputs=("y",), kind=FLOAT, batch="batch"):
        made = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("x", kind, [batch, channels, SIDE, SIDE])],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            list(initializers),
        )
        path = tmp_path / "graph.onnx"
        onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        return path

    return write


def node(kind, inputs, *outputs, **attributes):
    return helper.make_node(kind, inputs.split(), list(outputs), **attributes)


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def test_a_convolution_multiplies_each_output_with_its_kernel_and_inputs(graph):
    step, weights = conv("x", "y", 4, 8, kernel=3)
    cost = graph_cost(graph([step], [weights]))
    assert cost.multiply_adds == 8 * SIDE * SIDE * 4 * 9
    assert cost.gflops == pytest.approx(2e-9 * cost.multiply_adds)
    assert cost.weight_bytes == 8 * 4 * 9 * 4
    assert (cost.layers, cost.fp32_share) == (1, 1.0)
    assert cost.traffic_bytes == (4 + 8) * MAP


def test_groups_transposed_convolutions_and_matrix_products_are_counted(graph):
    grouped, grouped_w = conv("x", "a", 1, 4, kernel=3, group=4)
    up_w = constant("up_w", np.ones((4, 6, 2, 2), np.float32))
    up = helper.make_node("ConvTranspose", ["a", "up_w"], ["b"], strides=[2, 2])
    product = node("MatMul", "b m", "y")
    matrix = constant("m", np.ones((2 * SIDE, 10), np.float32))
    cost = graph_cost(graph([grouped, up, product], [grouped_w, up_w, matrix]))
    positions = SIDE * SIDE
    assert cost.multiply_adds == 4 * positions * 9 + 4 * positions * 6 * 4 + 6 * 2 * SIDE * 10 * 2 * SIDE
    assert cost.layers == 3


def test_inputs_and_outputs_of_the_graph_are_not_among_its_activations(graph):
    step, weights = conv("x", "y", 4, 8)
    assert graph_cost(graph([step], [weights])).activation_bytes(1) == 0


def test_activations_grow_with_the_batch_and_what_has_no_batch_does_not(graph):
    first, w1 = conv("x", "a", 4, 8)
    # Not a constant, since it starts from the image's own values: one number for the whole batch.
    reduced = node("ReduceMax", "a", "m", keepdims=0)
    tiled = node("Expand", "m size", "e")
    second, w2 = conv("a", "b", 8, 8)
    cost = graph_cost(
        graph(
            [first, reduced, tiled, second, node("Add", "b e", "c"), node("Relu", "c", "y")],
            [w1, w2, constant("size", np.array([1, 8, SIDE, SIDE], np.int64))],
        )
    )
    # a, b and the expanded maximum are alive when the second convolution runs.
    assert cost.live_activation_bytes(1) == 3 * 8 * MAP
    assert cost.live_activation_bytes(16) == (16 + 16 + 1) * 8 * MAP


def test_an_activation_function_works_in_place(graph):
    first, w1 = conv("x", "a", 4, 8)
    second, w2 = conv("r", "y", 8, 8)
    assert graph_cost(graph([first, node("Relu", "a", "r"), second], [w1, w2])).activation_bytes(1) == 8 * MAP


def test_silu_needs_its_input_while_the_sigmoid_is_made(graph):
    first, w1 = conv("x", "a", 4, 8)
    second, w2 = conv("m", "y", 8, 8)
    steps = [first, node("Sigmoid", "a", "s"), node("Mul", "a s", "m"), second]
    assert graph_cost(graph(steps, [w1, w2])).activation_bytes(1) == 2 * 8 * MAP


def test_what_is_read_later_is_not_overwritten(graph):
    first, w1 = conv("x", "a", 4, 8)
    second, w2 = conv("r", "b", 8, 8)
    steps = [first, node("Relu", "a", "r"), second, node("Add", "a b", "y")]
    # a lives to the end; r cannot take its place, and neither can b, as r is read while b is made.
    assert graph_cost(graph(steps, [w1, w2])).activation_bytes(1) == 3 * 8 * MAP


def test_the_callers_input_is_not_overwritten(graph):
    step, weights = conv("r", "y", 4, 8)
    assert graph_cost(graph([node("Relu", "x", "r"), step], [weights])).activation_bytes(1) == 4 * MAP


def test_views_share_their_inputs_buffer(graph):
    first, w1 = conv("x", "a", 4, 8)
    shape = constant("shape", np.array([0, 8, SIDE * SIDE], np.int64))
    axes = constant("axes", np.array([1], np.int64))
    steps = [
        first,
        node("Reshape", "a shape", "b"),
        node("Unsqueeze", "b axes", "c"),
        node("Identity", "c", "d"),
        node("Softmax", "d", "y"),
    ]
    assert graph_cost(graph(steps, [w1, shape, axes])).activation_bytes(1) == 8 * MAP


def test_a_view_keeps_the_buffer_alive(graph):
    first, w1 = conv("x", "a", 4, 8)
    second, w2 = conv("a", "b", 8, 8)
    third, w3 = conv("b", "c", 8, 8)
    shape = constant("shape", np.array([0, 8, SIDE, SIDE], np.int64))
    steps = [first, node("Reshape", "a shape", "v"), second, third, node("Concat", "v c", "y", axis=1)]
    assert graph_cost(graph(steps, [w1, w2, w3, shape])).live_activation_bytes(1) == 3 * 8 * MAP


def test_buffers_are_used_again(graph):
    steps, weights, source = [], [], "x"
    for number in range(9):
        step, each = conv(source, f"c{number}", 4, 4)
        steps, weights, source = [*steps, step], [*weights, each], f"c{number}"
    last, each = conv(source, "y", 4, 4)
    cost = graph_cost(graph([*steps, last], [*weights, each]))
    assert cost.activation_bytes(1) == 2 * 4 * MAP


def test_half_precision_halves_the_activations_and_the_weights(graph):
    first, w1 = conv("x", "a", 4, 8, dtype=np.float16)
    second, w2 = conv("a", "y", 8, 8, dtype=np.float16)
    cost = graph_cost(graph([first, second], [w1, w2], kind=HALF))
    assert cost.activation_bytes(1) == 8 * MAP // 2
    assert cost.weight_bytes == 2 * (8 * 4 + 8 * 8)
    assert cost.fp32_share == 0


def test_quantized_tensors_and_weights_count_in_their_quantized_size(graph):
    scale, zero = constant("s", np.float32(0.1)), constant("z", np.int8(0))
    weights = constant("w8", np.ones((8, 8, 1, 1), np.int8))
    first, w1 = conv("x", "a", 4, 8)
    steps = [
        first,
        node("QuantizeLinear", "a s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("DequantizeLinear", "w8 s z", "w"),
        node("Conv", "d w", "b"),
        node("MaxPool", "b", "y", kernel_shape=[1, 1]),
    ]
    cost = graph_cost(graph(steps, [w1, scale, zero, weights]))
    # a exists as q alone, in a byte an element; b in FP32.
    assert cost.live_activation_bytes(1) == 8 * MAP // 4 + 8 * MAP
    assert cost.weight_bytes == 4 * 8 * 4 + 8 * 8 + 4 + 1
    # The second convolution multiplies INT8.
    assert cost.fp32_share == pytest.approx(4 * 8 / (4 * 8 + 8 * 8))


def test_a_tensor_that_is_read_in_both_forms_exists_in_both(graph):
    scale, zero = constant("s", np.float32(0.1)), constant("z", np.int8(0))
    first, w1 = conv("x", "a", 4, 8)
    second, w2 = conv("d", "b", 8, 8)
    steps = [
        first,
        node("QuantizeLinear", "a s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        second,
        node("Concat", "a b", "y", axis=1),
    ]
    assert graph_cost(graph(steps, [w1, w2, scale, zero])).live_activation_bytes(1) == (8 + 2 + 8) * MAP


def test_constants_are_folded(graph):
    first, w1 = conv("x", "a", 4, 8)
    steps = [node("Add", "p p", "bias"), first, node("Mul", "a bias", "b"), node("Softmax", "b", "y")]
    large = constant("p", np.ones((1, 8, SIDE, SIDE), np.float32))
    cost = graph_cost(graph(steps, [w1, large]))
    assert cost.activation_bytes(1) == 8 * MAP
    assert cost.weight_bytes == 4 * 8 * 4 + 8 * MAP


def test_sizes_that_are_computed_from_the_batch_are_known(graph):
    # How YOLO's channel split is exported: half of the channels, from the tensor's own shape.
    one, two = constant("one", np.int64(1)), constant("two", np.int64(2))
    start, axis = constant("start", np.array([0], np.int64)), constant("axis", np.array([1], np.int64))
    first, w1 = conv("x", "a", 4, 8)
    steps = [
        first,
        node("Shape", "a", "shape"),
        node("Gather", "shape one", "channels"),
        node("Div", "channels two", "half"),
        node("Unsqueeze", "half start", "end"),
        node("Slice", "a start end axis", "h"),
        node("Softmax", "h", "y"),
    ]
    cost = graph_cost(graph(steps, [w1, one, two, start, axis]))
    assert cost.live_activation_bytes(4) == 4 * (8 + 4) * MAP
    assert cost.unsized_tensors == 0


def test_a_tensor_whose_size_depends_on_the_data_is_told_of(graph):
    first, w1 = conv("x", "a", 4, 8)
    cost = graph_cost(graph([first, node("NonZero", "a", "n"), node("Cast", "n", "y", to=FLOAT)], [w1]))
    assert cost.unsized_tensors == 2
    assert cost.activation_bytes(1) == 8 * MAP


def test_a_layer_whose_size_depends_on_the_data_is_an_error(graph):
    steps = [node("NonZero", "x", "n"), node("Cast", "n", "f", to=FLOAT), node("MatMul", "m f", "y")]
    with pytest.raises(ExportError, match=r"MatMul .*depends on the data"):
        graph_cost(graph(steps, [constant("m", np.ones((2, 4), np.float32))]))


def test_a_fixed_batch_has_its_own_memory_and_shares_its_work(graph):
    first, w1 = conv("x", "a", 4, 8)
    second, w2 = conv("a", "y", 8, 8)
    fixed = graph_cost(graph([first, second], [w1, w2], batch=4))
    assert fixed.multiply_adds == (4 * 8 + 8 * 8) * SIDE * SIDE
    assert fixed.activation_bytes(1) == fixed.activation_bytes(4) == 4 * 8 * MAP


def test_a_plugins_node_and_a_branch_are_told_of_and_the_rest_is_counted(graph):
    first, w1 = conv("x", "a", 4, 8)
    plugin = node("Plugin", "a", "p", domain="example")
    folded = node("Plugin", "one", "f", domain="example")
    taken = helper.make_graph([node("Relu", "a", "t")], "taken", [], [helper.make_tensor_value_info("t", FLOAT, None)])
    branch = helper.make_node("If", ["yes"], ["i"], then_branch=taken, else_branch=taken)
    steps = [first, plugin, folded, branch, node("Concat", "a p f i", "y", axis=1)]
    cost = graph_cost(graph(steps, [w1, constant("one", np.float32(1)), constant("yes", np.bool_(True))]))
    assert cost.activation_bytes(1) >= 8 * MAP
    assert cost.unsized_tensors >= 2


def test_a_node_that_reads_what_nothing_makes_is_an_error(graph):
    with pytest.raises(ExportError, match=r"Relu .*reads nowhere, which nothing before it makes"):
        graph_cost(graph([node("Relu", "nowhere", "y")]))


@pytest.mark.parametrize("content", [b"", b"no graph"])
def test_a_file_that_is_no_graph_is_an_error(tmp_path, content):
    path = tmp_path / "graph.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"graph\.onnx is no"):
        graph_cost(path)


LIFETIMES = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 10_000)), max_size=30)


@given(LIFETIMES, st.integers(1, 4))
def test_a_block_holds_what_is_alive_and_no_more_than_all(lifetimes, batch):
    buffers = [
        Buffer(first_step=min(a, b), last_step=max(a, b), bytes_fixed=0, bytes_per_image=size)
        for a, b, size in lifetimes
    ]
    alive, block = live_bytes(buffers, batch), placed_bytes(buffers, batch)
    assert alive <= block <= sum(each.bytes(batch) for each in buffers)
    everything_at_once = max(
        (sum(b.bytes(batch) for b in buffers if b.first_step <= s <= b.last_step) for s in range(21)), default=0
    )
    assert alive == everything_at_once
