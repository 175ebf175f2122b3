package dev.edgevit.app

import android.content.Context
import java.io.File
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** ExecuTorch with XNNPACK. It loads from a path, so the file is copied out of the app once. */
private class ExecuTorchModel(context: Context, contract: Contract) : Model {
    private val shape = contract.shape.map { it.toLong() }.toLongArray()
    private val module = Module.load(unpacked(context, contract).path)

    override fun run(input: Any): FloatArray {
        val given = if (input is ByteArray) Tensor.fromBlobUnsigned(input, shape)
        else Tensor.fromBlob(input as FloatArray, shape)
        return module.forward(EValue.from(given))[0].toTensor().dataAsFloatArray
    }

    override fun close() = module.destroy()
}

private fun unpacked(context: Context, contract: Contract): File {
    val file = File(context.filesDir, "${contract.sha256}.pte")
    if (file.length() == contract.bytes) return file
    val scratch = File(context.filesDir, "${contract.sha256}.part")
    context.assets.open("model/${contract.entry}").use { from -> scratch.outputStream().use { from.copyTo(it) } }
    check(scratch.renameTo(file)) { "the model cannot be unpacked: is the phone's storage full?" }
    return file
}

fun openModel(context: Context, contract: Contract): Model = ExecuTorchModel(context, contract)
