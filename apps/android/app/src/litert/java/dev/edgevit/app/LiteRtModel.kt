package dev.edgevit.app

import android.content.Context
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel

/** LiteRT on the CPU, with XNNPACK. */
private class LiteRtModel(context: Context, contract: Contract) : Model {
    private val model =
        CompiledModel.create(context.assets, "model/${contract.entry}", CompiledModel.Options(Accelerator.CPU))
    private val inputs = model.createInputBuffers()
    private val outputs = model.createOutputBuffers()

    override fun run(input: Any): FloatArray {
        if (input is ByteArray) inputs[0].writeInt8(input) else inputs[0].writeFloat(input as FloatArray)
        model.run(inputs, outputs)
        return outputs[0].readFloat()
    }

    override fun close() {
        (inputs + outputs).forEach { it.close() }
        model.close()
    }
}

fun openModel(context: Context, contract: Contract): Model = LiteRtModel(context, contract)
