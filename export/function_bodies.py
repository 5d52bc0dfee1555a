"""Bodies of the ONNX functions of domain ``anycost``, in ONNX's text form.

Inputs have the layouts of the static-weight form: activations [N, C, H, W], weights [out, in, k, k] ([in, out, k, k] where the
convolution is transposed), styles [N, in], demodulation [N, out], noise [N or 1, 1, H, W]. Those of ``fused_functions`` have
activations [N, H, W, C] and weights [9, in, out].
"""

from __future__ import annotations

from onnx import FunctionProto, parser

DOMAIN = "anycost"
_ELEMENTS = {"fp32": 1, "fp16": 10, "bf16": 16}

_MAPPING = {
    # rsqrt(x + 1e-8) stands in the form of ``rsqrt_plus`` everywhere: compilers take 1e-8 for 0.
    "PixelNorm": """PixelNorm (x) => (y) {
        square = Mul (x, x)
        axis = Constant <value_ints: ints = [1]> ()
        mean = ReduceMean <keepdims = 1> (square, axis)
        large = Constant <value_float: float = 1e8> ()
        one = Constant <value_float: float = 1.0> ()
        gain = Constant <value_float: float = 1e4> ()
        enlarged = Mul (mean, large)
        above = Add (enlarged, one)
        root = Sqrt (above)
        inverse = Reciprocal (root)
        factor = Mul (inverse, gain)
        y = Mul (x, factor)
    }""",
    "Linear": """Linear (x, weight, bias) => (y) {
        sum = Gemm (x, weight, bias)
        y = LeakyRelu <alpha = 0.2> (sum)
    }""",
}

_SELECT = """
        row = Constant <value_int: int = @row> ()
        w = Gather <axis = 1> (w_plus, row)"""

_FLOAT_STYLE = {
    "Style": f"""Style <row> (w_plus, affine, affine_bias, energy) => (style, demodulation) {{{_SELECT}
        style = Gemm (w, affine, affine_bias)
        square = Mul (style, style)
        sum = MatMul (square, energy)
        large = Constant <value_float: float = 1e8> ()
        half = Constant <value_float: float = 0.5> ()
        gain = Constant <value_float: float = 1e4> ()
        enlarged = Mul (sum, large)
        above = Add (enlarged, half)
        root = Sqrt (above)
        inverse = Reciprocal (root)
        demodulation = Mul (inverse, gain)
    }}""",
    "RGBStyle": f"""RGBStyle <row> (w_plus, affine, affine_bias) => (style) {{{_SELECT}
        style = Gemm (w, affine, affine_bias)
    }}""",
}

# s' in [-1, 1] and b, the largest absolute value of a style.
_NORMALIZED = f"""{_SELECT}
        plain = Gemm (w, affine, affine_bias)
        size = Abs (plain)
        axis = Constant <value_ints: ints = [1]> ()
        least = Constant <value_float: float = 1e-8> ()
        greatest = ReduceMax <keepdims = 1> (size, axis)
        largest = Clip (greatest, least)
        exact = Div (plain, largest)
        style = Cast <to = ELEMENT> (exact)
        spread = Constant <value_float: float = @spread> ()
        scale = Mul (largest, peak)"""

_HALF_STYLE = {
    "Style": f"""Style <row, spread> (w_plus, affine, affine_bias, energy, peak) => (style, demodulation) {{{_NORMALIZED}
        square = Mul (exact, exact)
        sum = MatMul (square, energy)
        scale_squared = Mul (scale, scale)
        floor = Div (least, scale_squared)
        above = Add (sum, floor)
        root = Sqrt (above)
        inverse = Reciprocal (root)
        unbounded = Mul (inverse, spread)
        bound = Constant <value_float: float = 6e4> ()
        bounded = Clip (unbounded, "", bound)
        demodulation = Cast <to = ELEMENT> (bounded)
    }}""",
    "RGBStyle": f"""RGBStyle <row, spread> (w_plus, affine, affine_bias, peak) => (style, gain) {{{_NORMALIZED}
        gain = Mul (scale, spread)
    }}""",
}

_SCALED = """
        over_pixels = Constant <value_ints: ints = [2, 3]> ()
        factors = Unsqueeze (style, over_pixels)
        scaled = Mul (x, factors)"""

# Of channels-last features, turned after they are scaled: so OpenVINO need not turn them at all.
_SCALED_AND_TURNED = """
        over_pixels = Constant <value_ints: ints = [2, 3]> ()
        over_rows = Constant <value_ints: ints = [1, 2]> ()
        factors = Unsqueeze (style, over_rows)
        scaled_last = Mul (x, factors)
        scaled = Transpose <perm = [0, 3, 1, 2]> (scaled_last)"""

_EPILOGUE = """
        demodulations = Unsqueeze (demodulation, over_pixels)
        demodulated = Mul (filtered, demodulations)
        grained = Add (demodulated, noise)
        biased = Add (grained, bias)
        y = LeakyRelu <alpha = 0.2> (biased)"""

_TRANSPOSED = """
        enlarged = ConvTranspose <kernel_shape = [3, 3], strides = [2, 2]> (scaled, weight)"""

# TensorRT-RTX has no transposed convolution in bfloat16.
_TRANSPOSED_IN_FLOAT16 = """
        scaled_float16 = Cast <to = 10> (scaled)
        enlarged_float16 = ConvTranspose <kernel_shape = [3, 3], strides = [2, 2]> (scaled_float16, weight)
        enlarged = Cast <to = 16> (enlarged_float16)"""

_UP = "Up{} <channels> (x, weight, style, demodulation, noise, bias, fir) => (y) {{{}"
_UP_FILTERED = f"""
        TRANSPOSED
        filtered = Conv <kernel_shape = [4, 4], pads = [1, 1, 1, 1], group: int = @channels> (enlarged, fir){_EPILOGUE}
    }}"""
_CONVOLUTION = {
    "ModulatedConv": f"""ModulatedConv (x, weight, style, demodulation, noise, bias) => (y) {{{_SCALED}
        filtered = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (scaled, weight){_EPILOGUE}
    }}""",
    "UpModulatedConv": _UP.format("ModulatedConv", _SCALED) + _UP_FILTERED,
    "UpModulatedConvLast": _UP.format("ModulatedConvLast", _SCALED_AND_TURNED) + _UP_FILTERED,
}

_FLOAT_RGB = """
        colours = Conv <kernel_shape = [1, 1]> (scaled, weight)"""
_HALF_RGB = """
        half_colours = Conv <kernel_shape = [1, 1]> (scaled, weight)
        normalized = Cast <to = 1> (half_colours)
        gains = Unsqueeze (gain, over_pixels)
        colours = Mul (normalized, gains)"""


def _rgb(colours: str, given: str) -> dict[str, str]:
    """Zero insertion, padding (2, 1) and the FIR are together a depthwise transposed convolution (the FIR is symmetric)."""
    return {
        "FirstToRGB": f"""FirstToRGB ({given}, bias) => (image) {{{_SCALED}{colours}
        image = Add (colours, bias)
    }}""",
        "ToRGB": f"""ToRGB ({given}, bias, below, fir) => (image) {{{_SCALED}{colours}
        here = Add (colours, bias)
        skip = ConvTranspose <kernel_shape = [4, 4], strides = [2, 2], pads = [1, 1, 1, 1], group = 3> (below, fir)
        image = Add (here, skip)
    }}""",
    }


_FLOAT_NOISE = {"Noise": "Noise (noise, strength) => (grain) { grain = Mul (noise, strength) }"}
_HALF_NOISE = {
    "Noise": """Noise (noise, strength) => (grain) {
        exact = Mul (noise, strength)
        grain = Cast <to = ELEMENT> (exact)
    }"""
}


# Channels-last: scaled in float32, summed in the activations' type, finished in float32.
_LAST_SCALED = """
        over_pixels = Constant <value_ints: ints = [1, 2]> ()
        factors = Unsqueeze (style, over_pixels)
        exact_x = Cast <to = 1> (x)
        exact_scaled = Mul (exact_x, factors)"""
_LAST_PLANAR = """
        scaled = Cast <to = ELEMENT> (exact_scaled)
        planar = Transpose <perm = [0, 3, 1, 2]> (scaled)"""
_LAST_EPILOGUE = """
        demodulations = Unsqueeze (demodulation, over_pixels)
        demodulated = Mul (filtered, demodulations)
        exact_noise = Cast <to = 1> (noise)
        noise_last = Transpose <perm = [0, 2, 3, 1]> (exact_noise)
        grain = Mul (noise_last, strength)
        grained = Add (demodulated, grain)
        biased = Add (grained, bias)
        activated = LeakyRelu <alpha = 0.2> (biased)
        y = Cast <to = ELEMENT> (activated)"""
_LAST_COLOURS = """
        rows = Transpose <perm = [1, 0]> (weight)
        colours_last = MatMul (exact_scaled, rows)
        coloured = Add (colours_last, bias)"""

_FUSED = {
    "ModulatedConv": f"""ModulatedConv (x, weight, style, demodulation, noise, strength, bias) => (y) {{
        {_LAST_SCALED}{_LAST_PLANAR}
        outputs_first = Transpose <perm = [2, 1, 0]> (weight)
        size = Constant <value_ints: ints = [0, 0, 3, 3]> ()
        filter = Reshape (outputs_first, size)
        sums = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (planar, filter)
        exact = Cast <to = 1> (sums)
        filtered = Transpose <perm = [0, 2, 3, 1]> (exact){_LAST_EPILOGUE}
    }}""",
    "ModulatedConvTranspose": f"""ModulatedConvTranspose (x, weight, style) => (y) {{{_LAST_SCALED}{_LAST_PLANAR}
        inputs_first = Transpose <perm = [1, 2, 0]> (weight)
        size = Constant <value_ints: ints = [0, 0, 3, 3]> ()
        filter = Reshape (inputs_first, size)
        sums = ConvTranspose <kernel_shape = [3, 3], strides = [2, 2]> (planar, filter)
        y = Transpose <perm = [0, 2, 3, 1]> (sums)
    }}""",
    # Every channel is an image of its own for the FIR.
    "Finish": f"""Finish (x, taps, demodulation, noise, strength, bias) => (y) {{
        over_pixels = Constant <value_ints: ints = [1, 2]> ()
        exact = Cast <to = 1> (x)
        planar = Transpose <perm = [0, 3, 1, 2]> (exact)
        shape = Shape (planar)
        all_images = Constant <value_ints: ints = [-1, 1]> ()
        two = Constant <value_ints: ints = [2]> ()
        four = Constant <value_ints: ints = [4]> ()
        zero = Constant <value_ints: ints = [0]> ()
        area = Slice (shape, two, four)
        flat = Concat <axis = 0> (all_images, area)
        images = Reshape (planar, flat)
        ends = Constant <value_ints: ints = [0, 1]> ()
        fir = Unsqueeze (taps, ends)
        smooth = Conv <kernel_shape = [4, 4], pads = [1, 1, 1, 1]> (images, fir)
        outer = Slice (shape, zero, two)
        smooth_shape = Shape (smooth)
        inner = Slice (smooth_shape, two, four)
        back = Concat <axis = 0> (outer, inner)
        smooth_planar = Reshape (smooth, back)
        filtered = Transpose <perm = [0, 2, 3, 1]> (smooth_planar){_LAST_EPILOGUE}
    }}""",
    "FirstToRGB": f"""FirstToRGB (x, weight, style, bias) => (image) {{{_LAST_SCALED}{_LAST_COLOURS}
        image = Transpose <perm = [0, 3, 1, 2]> (coloured)
    }}""",
    "ToRGB": f"""ToRGB (x, weight, style, bias, below, taps) => (image) {{{_LAST_SCALED}{_LAST_COLOURS}
        here = Transpose <perm = [0, 3, 1, 2]> (coloured)
        colours_and_one = Constant <value_ints: ints = [3, 1, 4, 4]> ()
        fir = Expand (taps, colours_and_one)
        skip = ConvTranspose <kernel_shape = [4, 4], strides = [2, 2], pads = [1, 1, 1, 1], group = 3> (below, fir)
        image = Add (here, skip)
    }}""",
}


def functions(precision: str, opset: int) -> list[FunctionProto]:
    """All functions for activations of a precision (fp32, fp16 or bf16)."""
    if precision == "fp32":
        texts = _MAPPING | _FLOAT_STYLE | _FLOAT_NOISE | _CONVOLUTION | _rgb(_FLOAT_RGB, "x, weight, style")
    else:
        texts = _HALF_STYLE | _HALF_NOISE | _CONVOLUTION | _rgb(_HALF_RGB, "x, weight, style, gain")
    transposed = _TRANSPOSED_IN_FLOAT16 if precision == "bf16" else _TRANSPOSED
    elements = _ELEMENTS[precision]
    return [_parsed(text.replace("TRANSPOSED", transposed), elements, opset) for text in texts.values()]


def fused_functions(precision: str, opset: int) -> list[FunctionProto]:
    """All functions of the graph for the fused kernels; styles are float32 in every precision."""
    style = (
        _FLOAT_STYLE
        if precision == "fp32"
        else {"Style": _HALF_STYLE["Style"]} | {"RGBStyle": _FLOAT_STYLE["RGBStyle"]}
    )
    return [_parsed(text, 1, opset) for text in style.values()] + [
        _parsed(text, _ELEMENTS[precision], opset) for text in _FUSED.values()
    ]


def _parsed(text: str, element: int, opset: int) -> FunctionProto:
    text = text.replace("ELEMENT", str(element))
    return parser.parse_function(f'<opset_import: ["" : {opset}], domain: "{DOMAIN}"> {text}')
