package dev.edgevit.app

import android.Manifest
import android.content.ContentResolver
import android.content.pm.PackageManager
import android.graphics.Bitmap
import android.graphics.ImageDecoder
import android.graphics.Matrix
import android.net.Uri
import android.os.Bundle
import androidx.activity.ComponentActivity
import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.compose.setContent
import androidx.activity.enableEdgeToEdge
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.ImageProxy
import androidx.camera.view.CameraController
import androidx.camera.view.LifecycleCameraController
import androidx.camera.view.PreviewView
import androidx.compose.foundation.isSystemInDarkTheme
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.safeDrawingPadding
import androidx.compose.material3.Button
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.material3.darkColorScheme
import androidx.compose.material3.lightColorScheme
import androidx.compose.runtime.Composable
import androidx.compose.runtime.DisposableEffect
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.rememberCoroutineScope
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.semantics.LiveRegionMode
import androidx.compose.ui.semantics.liveRegion
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import androidx.compose.ui.viewinterop.AndroidView
import androidx.lifecycle.compose.LocalLifecycleOwner
import java.util.concurrent.Executors
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

private const val MAX_MEGAPIXELS = 40

class MainActivity : ComponentActivity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        enableEdgeToEdge()
        setContent {
            MaterialTheme(if (isSystemInDarkTheme()) darkColorScheme() else lightColorScheme()) {
                Surface(Modifier.fillMaxSize()) { Screen() }
            }
        }
    }
}

@Composable
private fun Screen() {
    val context = LocalContext.current
    val scope = rememberCoroutineScope()
    var classifier by remember { mutableStateOf<Classifier?>(null) }
    var found by remember { mutableStateOf<Found?>(null) }
    var message by remember { mutableStateOf("") }
    var live by remember { mutableStateOf(false) }

    LaunchedEffect(Unit) {
        runCatching { withContext(Dispatchers.Default) { Classifier(context.applicationContext) } }
            .onSuccess { classifier = it }
            .onFailure { message = (it as? Unusable)?.message ?: "The model cannot be loaded: ${it.message}" }
    }
    DisposableEffect(classifier) { onDispose { classifier?.close() } }

    val permission = rememberLauncherForActivityResult(ActivityResultContracts.RequestPermission()) { allowed ->
        live = allowed
        message = if (allowed) "" else "The camera was not allowed. Allow it in the settings, or choose a picture."
    }
    val picker = rememberLauncherForActivityResult(ActivityResultContracts.PickVisualMedia()) { uri ->
        val model = classifier
        if (uri != null && model != null) {
            live = false
            scope.launch {
                runCatching { withContext(Dispatchers.Default) { model.classify(decode(context.contentResolver, uri)) } }
                    .onSuccess { found = it; message = "" }
                    .onFailure { message = it.message ?: "The picture cannot be read." }
            }
        }
    }

    Column(Modifier.safeDrawingPadding().padding(16.dp), Arrangement.spacedBy(12.dp)) {
        val model = classifier
        if (live && model != null) {
            CameraView(model, { found = it }, { message = it; live = false }, Modifier.weight(1f).fillMaxWidth())
        }
        Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
            Button(enabled = model != null, onClick = {
                val allowed = context.checkSelfPermission(Manifest.permission.CAMERA)
                if (live) live = false
                else if (!context.packageManager.hasSystemFeature(PackageManager.FEATURE_CAMERA_ANY)) {
                    message = "This device has no camera. You can choose a picture."
                } else if (allowed == PackageManager.PERMISSION_GRANTED) live = true
                else permission.launch(Manifest.permission.CAMERA)
            }) { Text(if (live) "Stop camera" else "Start camera") }
            OutlinedButton(enabled = model != null, onClick = {
                picker.launch(PickVisualMediaRequest(ActivityResultContracts.PickVisualMedia.ImageOnly))
            }) { Text("Choose a picture") }
        }
        if (message.isNotEmpty()) {
            Text(message, Modifier.semantics { liveRegion = LiveRegionMode.Assertive }, MaterialTheme.colorScheme.error)
        }
        found?.let { Answer(it, model?.contract?.probabilities == true) }
    }
}

@Composable
private fun Answer(found: Found, probabilities: Boolean) {
    for ((rank, guess) in found.guesses.withIndex()) {
        Column(if (rank == 0) Modifier.semantics { liveRegion = LiveRegionMode.Polite } else Modifier) {
            val score = if (probabilities) "%.1f %%".format(guess.score * 100) else "%.2f".format(guess.score)
            Row(Modifier.fillMaxWidth(), Arrangement.SpaceBetween) { Text(guess.label); Text(score) }
            if (probabilities) LinearProgressIndicator(progress = { guess.score }, modifier = Modifier.fillMaxWidth())
        }
    }
    Text("prepare %.1f ms, model %.1f ms".format(found.prepareMs, found.runMs))
}

@Composable
private fun CameraView(
    classifier: Classifier,
    onFound: (Found) -> Unit,
    onTrouble: (String) -> Unit,
    modifier: Modifier,
) {
    val context = LocalContext.current
    val owner = LocalLifecycleOwner.current
    val worker = remember { Executors.newSingleThreadExecutor() }
    val controller = remember {
        LifecycleCameraController(context).apply {
            setEnabledUseCases(CameraController.IMAGE_ANALYSIS)
            imageAnalysisBackpressureStrategy = ImageAnalysis.STRATEGY_KEEP_ONLY_LATEST
            imageAnalysisOutputImageFormat = ImageAnalysis.OUTPUT_IMAGE_FORMAT_RGBA_8888
            setImageAnalysisAnalyzer(worker) { frame ->
                runCatching { frame.use { classifier.classify(upright(it)) } }
                    .onSuccess { context.mainExecutor.execute { onFound(it) } }
                    .onFailure { context.mainExecutor.execute { onTrouble("The camera stopped: ${it.message}") } }
            }
        }
    }
    DisposableEffect(owner) {
        controller.bindToLifecycle(owner)
        onDispose { controller.unbind(); worker.shutdown() }
    }
    AndroidView({ PreviewView(it).apply { this.controller = controller } }, modifier)
}

private fun upright(frame: ImageProxy): Bitmap {
    val bitmap = frame.toBitmap()
    val turn = frame.imageInfo.rotationDegrees
    if (turn == 0) return bitmap
    val matrix = Matrix().apply { postRotate(turn.toFloat()) }
    return Bitmap.createBitmap(bitmap, 0, 0, bitmap.width, bitmap.height, matrix, false)
}

/** Upright, which ImageDecoder sees to, and with the colours behind transparent parts: the contract drops alpha. */
private fun decode(resolver: ContentResolver, uri: Uri): Bitmap {
    return try {
        ImageDecoder.decodeBitmap(ImageDecoder.createSource(resolver, uri)) { decoder, info, _ ->
            val megapixels = info.size.width.toLong() * info.size.height / 1_000_000
            if (megapixels > MAX_MEGAPIXELS) {
                throw Unusable("The picture has $megapixels megapixels, more than $MAX_MEGAPIXELS.")
            }
            decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
            decoder.isUnpremultipliedRequired = true
        }
    } catch (error: java.io.IOException) {
        throw Unusable("This is not a picture that can be read; it may be damaged.")
    }
}
