"""The first convolution of a network as space to depth: the same numbers, other work for a GPU.

A convolution of stride 2 over 3 channels fills an int8 or float16 kernel's 16 or 32 channels badly.
Blocks of 2 x 2 pixels as 12 channels, and a convolution of stride 1 and half the side over them,
compute the same sums. plans.py measures what that gains, with --space_to_depth; the program itself
does not do it.
"""

import numpy as np

BLOCK = 2
MOST_CHANNELS = 4  # of an image; more fill a kernel as they are


def to_depth(model):
    """The ONNX model with its stem rewritten; what comes of it must have its shapes inferred anew.

    Raises:
      ValueError: no Transpose of images of even sides in front of a plain convolution of stride 2.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    turn, conv = find_stem(model.graph, constants)
    source = next(value for value in model.graph.input if value.name == turn.input[0])
    sides = [side.dim_value for side in source.type.tensor_type.shape.dim][1:3]
    pads = ints_of(conv, "pads", [0] * 4)
    weights = numpy_helper.to_array(constants[conv.input[1]])
    blocks, pads = rewritten(weights, sides, pads)
    made = numpy_helper.from_array(blocks, conv.input[1])
    constants[conv.input[1]].CopyFrom(made)
    set_ints(conv, "strides", [1, 1])
    set_ints(conv, "pads", pads)
    set_ints(conv, "kernel_shape", blocks.shape[2:])
    write_depth(model.graph, turn, [side // BLOCK for side in sides], weights.shape[1])
    return model


def find_stem(graph, constants):
    """The Transpose of images to channels first, and the convolution that alone reads it."""
    for turn in graph.node:
        readers = [node for node in graph.node if turn.output[0] in node.input]
        if is_turn(turn, graph) and len(readers) == 1 and is_plain(readers[0], constants):
            return turn, readers[0]
    raise ValueError("no Transpose of images of even sides in front of a plain 2D convolution")


def is_turn(node, graph):
    """Whether a node brings an input of known even sides to channels first."""
    source = next((value for value in graph.input if value.name in node.input), None)
    if node.op_type != "Transpose" or source is None:
        return False
    sides = [side.dim_value for side in source.type.tensor_type.shape.dim][1:3]
    even = all(side and side % BLOCK == 0 for side in sides)
    return even and ints_of(node, "perm", []) == [0, 3, 1, 2]


def is_plain(node, constants):
    """Whether a node is a convolution of stride 2 of few channels, without anything special."""
    return (
        node.op_type == "Conv"
        and node.input[1] in constants
        and constants[node.input[1]].dims[1] <= MOST_CHANNELS
        and ints_of(node, "strides", [1, 1]) == [BLOCK] * 2
        and ints_of(node, "dilations", [1, 1]) == [1, 1]
        and not any(a.name == "auto_pad" and a.s != b"NOTSET" for a in node.attribute)
        and not any(a.name == "group" and a.i != 1 for a in node.attribute)
    )


def ints_of(node, name, default):
    """A node's attribute of several integers."""
    found = (attribute.ints for attribute in node.attribute if attribute.name == name)
    return list(next(found, default))


def rewritten(weights, sides, pads):
    """Weights [out, channels, high, wide] over blocks, contiguous float32, and their padding."""
    out, channels, *kernel = weights.shape
    front = [pad % BLOCK for pad in pads[:2]]  # so that the first block is whole
    whole = [-(-(k + f) // BLOCK) for k, f in zip(kernel, front)]
    back = [BLOCK * w - k - f for w, k, f in zip(whole, kernel, front)]
    padded = np.pad(weights, ((0, 0), (0, 0), (front[0], back[0]), (front[1], back[1])))
    shape = (out, channels, whole[0], BLOCK, whole[1], BLOCK)
    blocks = padded.reshape(shape).transpose(0, 3, 5, 1, 2, 4).reshape(out, -1, *whole)
    starts = [(pad + f) // BLOCK for pad, f in zip(pads[:2], front)]
    results = [(s + p + q - k) // BLOCK + 1 for s, p, q, k in zip(sides, pads, pads[2:], kernel)]
    ends = [
        r + w - 1 - start - side // BLOCK
        for r, w, start, side in zip(results, whole, starts, sides)
    ]
    return np.ascontiguousarray(blocks, np.float32), [*starts, *ends]


def set_ints(node, name, values):
    """Sets a node's attribute of several integers."""
    from onnx import helper

    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, list(map(int, values)))])


def write_depth(graph, turn, sides, channels):
    """Puts space to depth in the place of the Transpose."""
    from onnx import helper, numpy_helper

    shapes = {
        "split": [-1, sides[0], BLOCK, sides[1], BLOCK, channels],
        "join": [-1, BLOCK * BLOCK * channels, *sides],
    }
    for name, shape in shapes.items():
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"stem_{name}"))
    nodes = [
        helper.make_node("Reshape", [turn.input[0], "stem_split"], ["stem_blocks"]),
        helper.make_node("Transpose", ["stem_blocks"], ["stem_turned"], perm=[0, 2, 4, 5, 1, 3]),
        helper.make_node("Reshape", ["stem_turned", "stem_join"], [turn.output[0]]),
    ]
    place = list(graph.node).index(turn)
    stale = [value for value in graph.value_info if value.name == turn.output[0]]
    graph.node.remove(turn)
    for index, node in enumerate(nodes):
        node.name = node.output[0] + "_made"
        graph.node.insert(place + index, node)
    for value in stale:
        graph.value_info.remove(value)
