package dev.edgevit.app

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import javax.imageio.ImageIO
import org.json.JSONObject
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Test

/** The bundle's golden vectors: each picture gives the exact input that edgevit compared. */
class GoldenTest {
    private val folder = File(System.getProperty("edgevit.bundle") ?: "src/main/assets/model")

    @Test
    fun everyPictureBecomesItsGoldenInput() {
        val contract = readContract(File(folder, "manifest.json").readText())
        checkFile(contract, File(folder, contract.entry).readBytes())
        val file = ByteBuffer.wrap(File(folder, "golden/inputs.safetensors").readBytes()).order(ByteOrder.LITTLE_ENDIAN)
        val size = file.getLong().toInt()
        val entry = JSONObject(String(file.array(), 8, size)).getJSONObject("inputs")
        val count = entry.getJSONArray("shape").getInt(0)
        val start = 8 + size + entry.getJSONArray("data_offsets").getInt(0)
        val length = (8 + size + entry.getJSONArray("data_offsets").getInt(1) - start) / count
        assertEquals(count, File(folder, "golden").list()!!.count { it.endsWith(".png") })
        repeat(count) {
            val found = prepare(read(File(folder, "golden/probe_$it.png")), contract)
            val wanted = file.array().copyOfRange(start + it * length, start + (it + 1) * length)
            assertArrayEquals(wanted, bytesOf(found))
        }
    }

    private fun read(file: File): Pixels {
        val image = ImageIO.read(file)
        val colours = image.getRGB(0, 0, image.width, image.height, null, 0, image.width)
        return fromArgb(colours, image.width, image.height)
    }

    private fun bytesOf(input: Any): ByteArray {
        if (input is ByteArray) return input
        val floats = input as FloatArray
        return ByteBuffer.allocate(floats.size * 4).order(ByteOrder.LITTLE_ENDIAN)
            .apply { floats.forEach { putFloat(it) } }.array()
    }
}
