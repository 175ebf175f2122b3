package dev.edgevit.app

import java.security.MessageDigest
import org.json.JSONArray
import org.json.JSONObject

/** Something a person can read and act on. */
class Unusable(message: String) : Exception(message)

/** How a picture of any size becomes the input; see edgevit's docs/input-contract.md. */
data class Rule(
    val height: Int,
    val width: Int,
    val cropPct: Double,
    val cropMode: String,
    val interpolation: String,
    val mean: List<Double>,
    val std: List<Double>,
)

/** What an app needs of a bundle's manifest. */
data class Contract(
    val model: String,
    val backend: String,
    val entry: String,
    val bytes: Long,
    val sha256: String,
    val inputKind: String,
    val layout: String,
    val shape: List<Int>,
    val rule: Rule,
    val probabilities: Boolean,
    val labels: List<String>,
)

/** One of the most likely classes. */
data class Guess(val index: Int, val label: String, val score: Float)

/** Reads a manifest and refuses what this app cannot run. */
fun readContract(text: String): Contract {
    val root = JSONObject(text)
    if (root.getInt("schema_version") != 1) throw Unusable("This app reads manifests of version 1.")
    val backend = root.getJSONObject("target").getString("backend")
    if (backend != "litert" && backend != "executorch") {
        throw Unusable("The bundle is in the format $backend, which this app does not run. Export it with -t litert.")
    }
    val output = root.getJSONObject("output")
    if (output.getString("kind") == "features") throw Unusable("The bundle gives features, not classes.")
    val entry = root.getString("entry")
    val file = root.getJSONArray("files").objects().firstOrNull { it.getString("path") == entry }
        ?: throw Unusable("The manifest does not list the model file.")
    val input = root.getJSONObject("input")
    return Contract(
        model = root.getJSONObject("model").getString("name"),
        backend = backend,
        entry = entry,
        bytes = file.getLong("bytes"),
        sha256 = file.getString("sha256"),
        inputKind = input.getString("kind"),
        layout = input.getString("layout"),
        shape = input.getJSONArray("shape").numbers().map { it.toInt() },
        rule = readRule(root.getJSONObject("preprocess")),
        probabilities = output.getString("kind") == "probabilities",
        labels = root.getJSONArray("labels").let { list -> List(list.length()) { list.getString(it) } },
    )
}

private fun readRule(found: JSONObject): Rule {
    val size = found.getJSONArray("size").numbers()
    return Rule(
        height = size[0].toInt(),
        width = size[1].toInt(),
        cropPct = found.getDouble("crop_pct"),
        cropMode = found.getString("crop_mode"),
        interpolation = found.getString("interpolation"),
        mean = found.getJSONArray("mean").numbers(),
        std = found.getJSONArray("std").numbers(),
    )
}

private fun JSONArray.objects(): List<JSONObject> = List(length()) { getJSONObject(it) }

private fun JSONArray.numbers(): List<Double> = List(length()) { getDouble(it) }

/** Refuses a model file that is not the one the manifest names. */
fun checkFile(contract: Contract, bytes: ByteArray) {
    val hex = MessageDigest.getInstance("SHA-256").digest(bytes).joinToString("") { "%02x".format(it) }
    if (bytes.size.toLong() != contract.bytes || hex != contract.sha256) {
        throw Unusable("The model file ${contract.entry} is not the one its manifest names. Copy the bundle again.")
    }
}

/** The most likely classes, best first; of equal scores the lower index first. */
fun best(scores: FloatArray, labels: List<String>, count: Int = 5): List<Guess> =
    scores.indices.sortedByDescending { scores[it] }.take(count).map {
        Guess(it, labels.getOrElse(it) { _ -> "$it" }, scores[it])
    }
