import ImageIO
import PhotosUI
import SwiftUI

private let mostMegapixels = 40

struct ContentView: View {
    @State private var classifier: Classifier?
    @State private var found: Found?
    @State private var message = ""
    @State private var camera: Camera?
    @State private var frame: CGImage?
    @State private var picked: PhotosPickerItem?

    var body: some View {
        VStack(alignment: .leading, spacing: 16) {
            Group {
                if let frame {
                    Image(decorative: frame, scale: 1).resizable().scaledToFit()
                } else {
                    ContentUnavailableView("Start the camera, or choose a picture.", systemImage: "camera.viewfinder")
                }
            }
            .frame(maxWidth: .infinity, maxHeight: .infinity)
            HStack {
                Button(camera == nil ? "Start camera" : "Stop camera", action: toggleCamera)
                    .buttonStyle(.borderedProminent)
                PhotosPicker("Choose a picture", selection: $picked, matching: .images)
                    .buttonStyle(.bordered)
            }
            .disabled(classifier == nil)
            if !message.isEmpty { Text(message).foregroundStyle(.red) }
            if let found { AnswerView(found: found) }
        }
        .padding()
        .task { await load() }
        .onChange(of: picked) { Task { await classifyPicked() } }
    }

    private func load() async {
        do {
            classifier = try await Task.detached { try Classifier() }.value
        } catch {
            message = error.localizedDescription
        }
    }

    private func toggleCamera() {
        message = ""
        if let running = camera {
            running.stop()
            camera = nil
            return
        }
        let opened = Camera()
        Task {
            do {
                try await opened.start()
                camera = opened
                for await image in opened.frames { try await show(image) }
            } catch {
                message = error.localizedDescription
                opened.stop()
            }
            if camera === opened { camera = nil }
        }
    }

    private func classifyPicked() async {
        guard let item = picked else { return }
        picked = nil
        camera?.stop()
        camera = nil
        do {
            guard let data = try await item.loadTransferable(type: Data.self) else {
                throw Unusable("The picture cannot be read.")
            }
            message = ""
            try await show(decode(data))
        } catch {
            message = error.localizedDescription
        }
    }

    private func show(_ image: CGImage) async throws {
        frame = image
        found = try await classifier?.classify(image)
    }
}

struct AnswerView: View {
    let found: Found

    var body: some View {
        VStack(spacing: 8) {
            ForEach(found.guesses) { guess in
                VStack(spacing: 2) {
                    HStack {
                        Text(guess.label).fontWeight(guess.id == 0 ? .bold : .regular)
                        Spacer()
                        Text(guess.score, format: .percent.precision(.fractionLength(1))).monospacedDigit()
                    }
                    ProgressView(value: Double(guess.score)).accessibilityHidden(true)
                }
                .accessibilityElement(children: .combine)
            }
            Text("prepare \(found.prepare, specifier: "%.1f") ms, model \(found.run, specifier: "%.1f") ms")
                .font(.footnote).foregroundStyle(.secondary)
        }
    }
}

/// A picture upright and at its own size; refused before it is decoded where it is too large.
private func decode(_ data: Data) throws -> CGImage {
    guard let source = CGImageSourceCreateWithData(data as CFData, nil),
        let facts = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any],
        let width = facts[kCGImagePropertyPixelWidth] as? Int,
        let height = facts[kCGImagePropertyPixelHeight] as? Int
    else { throw Unusable("This is not a picture that can be read; it may be damaged.") }
    let megapixels = width * height / 1_000_000
    guard megapixels <= mostMegapixels else {
        throw Unusable("The picture has \(megapixels) megapixels, more than \(mostMegapixels).")
    }
    // The thumbnail turns a picture upright, and multiplies its colours by alpha: only where it has to be turned.
    let orientation = facts[kCGImagePropertyOrientation] as? UInt32 ?? 1
    if orientation == 1, let image = CGImageSourceCreateImageAtIndex(source, 0, nil) { return image }
    let options: [CFString: Any] = [
        kCGImageSourceCreateThumbnailFromImageAlways: true,
        kCGImageSourceCreateThumbnailWithTransform: true,
        kCGImageSourceThumbnailMaxPixelSize: max(width, height),
    ]
    guard let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary) else {
        throw Unusable("The picture could not be decoded: it may be damaged or cut off.")
    }
    return image
}
