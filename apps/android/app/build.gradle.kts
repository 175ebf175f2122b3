import groovy.json.JsonSlurper

plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.compose.compiler)
}

// The bundle decides which runtime is built in.
val manifest = JsonSlurper().parse(file("src/main/assets/model/manifest.json")) as Map<*, *>
val backend = (manifest["target"] as Map<*, *>)["backend"] as String
require(backend == "litert" || backend == "executorch") {
    "this app runs litert and executorch; the bundle is $backend. Export it with -t litert"
}

android {
    namespace = "dev.edgevit.app"
    compileSdk = 36

    defaultConfig {
        applicationId = "dev.edgevit.edgevit_app"
        minSdk = 28
        targetSdk = 36
        versionCode = 1
        versionName = "1.0"
    }

    buildFeatures { compose = true }
    sourceSets["main"].kotlin.srcDir("src/$backend/java")
    // A model that is stored as it is can be mapped into memory.
    androidResources { noCompress += listOf("tflite", "pte") }
    testOptions { unitTests.isReturnDefaultValues = true }
}

dependencies {
    implementation(platform(libs.compose.bom))
    implementation(libs.activity.compose)
    implementation(libs.lifecycle.compose)
    implementation(libs.compose.material3)
    implementation(libs.camera.camera2)
    implementation(libs.camera.lifecycle)
    implementation(libs.camera.view)
    implementation(libs.coroutines.android)
    implementation(if (backend == "litert") libs.litert else libs.executorch)
    testImplementation(libs.junit)
    testImplementation(libs.json)
}
