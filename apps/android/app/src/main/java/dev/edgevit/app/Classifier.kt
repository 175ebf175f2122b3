package dev.edgevit.app

import android.content.Context
import android.graphics.Bitmap

/** Runs the model: the exact input to the one output. Each runtime's file brings `openModel`. */
interface Model : AutoCloseable {
    fun run(input: Any): FloatArray
}

/** What one picture gave. */
data class Found(val guesses: List<Guess>, val prepareMs: Double, val runMs: Double)

/** The bundle of `assets/model`, checked and loaded. Not for the main thread. */
class Classifier(context: Context) : AutoCloseable {
    val contract = readContract(context.assets.open("model/manifest.json").use { it.readBytes().decodeToString() })
    private val model: Model

    init {
        val bytes = context.assets.open("model/${contract.entry}").use { it.readBytes() }
        checkFile(contract, bytes)
        model = openModel(context, contract)
    }

    @Synchronized
    fun classify(bitmap: Bitmap): Found {
        val start = System.nanoTime()
        val colours = IntArray(bitmap.width * bitmap.height)
        bitmap.getPixels(colours, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        val input = prepare(fromArgb(colours, bitmap.width, bitmap.height), contract)
        val middle = System.nanoTime()
        val scores = model.run(input)
        val end = System.nanoTime()
        return Found(best(scores, contract.labels), (middle - start) / 1e6, (end - middle) / 1e6)
    }

    @Synchronized
    override fun close() = model.close()
}
