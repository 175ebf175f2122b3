package dev.edgevit.app

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.json.JSONArray
import org.json.JSONObject

/** The Kotlin against what Python made; prints the numbers that differ. */
fun main(arguments: Array<String>) {
    val folder = File(arguments[0])
    val cases = JSONArray(File(folder, "cases.json").readText())
    val wrong = (0 until cases.length()).filter { number ->
        val one = cases.getJSONObject(number)
        val pixels = Pixels(File(folder, "$number.rgb").readBytes(), one.getInt("width"), one.getInt("height"))
        val found = prepare(pixels, contract(one))
        val bytes = if (found is ByteArray) found else {
            val floats = found as FloatArray
            ByteBuffer.allocate(floats.size * 4).order(ByteOrder.LITTLE_ENDIAN)
                .apply { floats.forEach { putFloat(it) } }.array()
        }
        !bytes.contentEquals(File(folder, "$number.bin").readBytes())
    }
    println("""{"cases": ${cases.length()}, "wrong": $wrong}""")
}

private fun contract(one: JSONObject): Contract {
    val manifest = JSONObject()
        .put("schema_version", 1).put("entry", "m").put("target", JSONObject().put("backend", "litert"))
        .put("files", JSONArray().put(JSONObject().put("path", "m").put("bytes", 0).put("sha256", "")))
        .put("model", JSONObject().put("name", "m")).put("output", JSONObject().put("kind", "probabilities"))
        .put("labels", JSONArray()).put("preprocess", one.getJSONObject("rule")).put("input", one.getJSONObject("input"))
    return readContract(manifest.toString())
}
