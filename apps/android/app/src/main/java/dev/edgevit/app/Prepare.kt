package dev.edgevit.app

import kotlin.math.PI
import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round
import kotlin.math.sin

/** Interleaved red, green and blue bytes. */
class Pixels(val data: ByteArray, val width: Int, val height: Int)

private const val BITS = 22

private class Kernel(val reach: Double, val at: (Double) -> Double)

private fun sinc(x: Double) = if (x == 0.0) 1.0 else sin(x * PI) / (x * PI)

private fun bicubic(signed: Double): Double {
    val x = abs(signed)
    return when {
        x < 1 -> (1.5 * x - 2.5) * x * x + 1
        x < 2 -> (((x - 5) * x + 8) * x - 4) * -0.5
        else -> 0.0
    }
}

private val KERNELS = mapOf(
    "bilinear" to Kernel(1.0) { max(0.0, 1 - abs(it)) },
    "bicubic" to Kernel(2.0, ::bicubic),
    "lanczos" to Kernel(3.0) { if (it > -3 && it < 3) sinc(it) * sinc(it / 3) else 0.0 },
)

/** Which source pixels make each target pixel, and how much of each. */
private class Taps(from: Int, to: Int, kernel: Kernel) {
    private val widened = max(from.toDouble() / to, 1.0)
    val stride = ceil(kernel.reach * widened).toInt() * 2 + 1
    val first = IntArray(to)
    val count = IntArray(to)
    val weights = IntArray(to * stride)

    init {
        val scale = from.toDouble() / to
        val support = kernel.reach * widened
        for (i in 0 until to) {
            val centre = (i + 0.5) * scale
            first[i] = max(0, (centre - support + 0.5).toInt())
            count[i] = min(from, (centre + support + 0.5).toInt()) - first[i]
            val exact = DoubleArray(count[i]) { kernel.at((it + first[i] - centre + 0.5) * (1 / widened)) }
            val total = exact.sum()
            for (k in exact.indices) {
                val weight = (if (total == 0.0) exact[k] else exact[k] / total) * (1 shl BITS)
                weights[i * stride + k] = (if (weight < 0) weight - 0.5 else weight + 0.5).toInt()
            }
        }
    }
}

private fun resizeAlong(source: Pixels, to: Int, kernel: Kernel, across: Boolean): Pixels {
    val taps = Taps(if (across) source.width else source.height, to, kernel)
    val width = if (across) to else source.width
    val height = if (across) source.height else to
    val data = ByteArray(width * height * 3)
    val step = if (across) 3 else source.width * 3
    for (y in 0 until height) {
        for (x in 0 until width) {
            val i = if (across) x else y
            val start = if (across) y * source.width * 3 + taps.first[i] * 3 else taps.first[i] * step + x * 3
            for (channel in 0..2) {
                var sum = 1 shl (BITS - 1)
                var at = start + channel
                for (k in i * taps.stride until i * taps.stride + taps.count[i]) {
                    sum += (source.data[at].toInt() and 255) * taps.weights[k]
                    at += step
                }
                data[(y * width + x) * 3 + channel] = (sum shr BITS).coerceIn(0, 255).toByte()
            }
        }
    }
    return Pixels(data, width, height)
}

private fun nearest(source: Pixels, width: Int, height: Int): Pixels {
    val data = ByteArray(width * height * 3)
    var y = source.height.toDouble() / height * 0.5
    for (row in 0 until height) {
        var x = source.width.toDouble() / width * 0.5
        for (column in 0 until width) {
            source.data.copyInto(data, (row * width + column) * 3, (y.toInt() * source.width + x.toInt()) * 3,
                (y.toInt() * source.width + x.toInt()) * 3 + 3)
            x += source.width.toDouble() / width
        }
        y += source.height.toDouble() / height
    }
    return Pixels(data, width, height)
}

/** The same bytes as Pillow's resize gives. */
fun resize(source: Pixels, width: Int, height: Int, filter: String): Pixels {
    if (source.width == width && source.height == height) return source
    val kernel = KERNELS[filter] ?: return nearest(source, width, height)
    val wide = if (source.width == width) source else resizeAlong(source, width, kernel, across = true)
    return if (wide.height == height) wide else resizeAlong(wide, height, kernel, across = false)
}

/** Width and height after resizing, before cropping. */
fun resizedSize(width: Int, height: Int, rule: Rule): Pair<Int, Int> {
    val tall = floor(rule.height / rule.cropPct).toInt()
    val wide = floor(rule.width / rule.cropPct).toInt()
    if (rule.cropMode == "squash") return wide to tall
    if (rule.cropMode == "center" && tall == wide) {
        return if (width <= height) tall to (tall.toDouble() * height / width).toInt()
        else (tall.toDouble() * width / height).toInt() to tall
    }
    val ratios = height.toDouble() / tall to width.toDouble() / wide
    val ratio = if (rule.cropMode == "border") max(ratios.first, ratios.second) else min(ratios.first, ratios.second)
    return round(width / ratio).toInt() to round(height / ratio).toInt()
}

/** The centre cut out; what is missing is the mean colour (border) or black. */
private fun centre(source: Pixels, rule: Rule): Pixels {
    val width = max(source.width, rule.width)
    val height = max(source.height, rule.height)
    val fill = List(3) { if (rule.cropMode == "border") round(255 * rule.mean[it]).toInt().toByte() else 0 }
    val left = (width - source.width) / 2
    val top = (height - source.height) / 2
    val offsetX = round((width - rule.width) / 2.0).toInt() - left
    val offsetY = round((height - rule.height) / 2.0).toInt() - top
    val data = ByteArray(rule.width * rule.height * 3)
    for (row in 0 until rule.height) {
        for (column in 0 until rule.width) {
            val (x, y) = column + offsetX to row + offsetY
            val there = x in 0 until source.width && y in 0 until source.height
            for (channel in 0..2) {
                data[(row * rule.width + column) * 3 + channel] =
                    if (there) source.data[(y * source.width + x) * 3 + channel] else fill[channel]
            }
        }
    }
    return Pixels(data, rule.width, rule.height)
}

/** Bytes at the model's size. */
fun toModelSize(source: Pixels, rule: Rule): Pixels {
    val (width, height) = resizedSize(source.width, source.height, rule)
    return centre(resize(source, width, height, rule.interpolation), rule)
}

/** The exact input: a ByteArray of [1, H, W, 3], or a FloatArray as the contract says. */
fun prepare(source: Pixels, contract: Contract): Any {
    val data = toModelSize(source, contract.rule).data
    if (contract.inputKind == "image" && contract.layout == "NHWC") return data
    val plane = data.size / 3
    return FloatArray(data.size) {
        val channel = it / plane
        val value = (data[it % plane * 3 + channel].toInt() and 255).toFloat()
        if (contract.inputKind == "image") value
        else (value / 255f - contract.rule.mean[channel].toFloat()) / contract.rule.std[channel].toFloat()
    }
}

/** Of packed ARGB, as Android's Bitmap gives it. */
fun fromArgb(colours: IntArray, width: Int, height: Int): Pixels {
    val data = ByteArray(width * height * 3)
    for (i in colours.indices) {
        data[i * 3] = (colours[i] shr 16).toByte()
        data[i * 3 + 1] = (colours[i] shr 8).toByte()
        data[i * 3 + 2] = colours[i].toByte()
    }
    return Pixels(data, width, height)
}
