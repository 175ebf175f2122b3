import CoreGraphics
import CoreML
import CoreVideo
import Foundation
import Vision

/// One of the most likely classes.
struct Guess: Identifiable {
    let id: Int
    let label: String
    let score: Float
}

/// What one picture gave; times in milliseconds.
struct Found {
    let guesses: [Guess]
    let prepare: Double
    let run: Double
}

/// The bundle in the app, loaded by Core ML and asked through Vision.
actor Classifier {
    let contract: Manifest
    private let model: VNCoreMLModel

    init() throws {
        guard let manifest = Bundle.main.url(forResource: "manifest", withExtension: "json") else {
            throw Unusable("The app holds no bundle. Make it with: edgevit app new ios BUNDLE DIR")
        }
        contract = try readContract(Data(contentsOf: manifest))
        let name = (contract.entry as NSString).deletingPathExtension
        guard let compiled = Bundle.main.url(forResource: name, withExtension: "mlmodelc") else {
            throw Unusable("Xcode did not compile \(contract.entry) into the app.")
        }
        model = try VNCoreMLModel(for: MLModel(contentsOf: compiled))
    }

    func classify(_ image: CGImage) throws -> Found {
        let start = ContinuousClock.now
        // Vision would resize in its own way: it is given the very pixels of the contract.
        let buffer = try pixelBuffer(toModelSize(pixels(of: image), contract.preprocess))
        let middle = ContinuousClock.now
        let request = VNCoreMLRequest(model: model)
        request.imageCropAndScaleOption = .scaleFill
        try VNImageRequestHandler(cvPixelBuffer: buffer).perform([request])
        guard let seen = request.results as? [VNClassificationObservation] else {
            throw Unusable("The model is no classifier. Export it with --output probabilities.")
        }
        let best = seen.prefix(5).enumerated().map {
            Guess(id: $0.offset, label: $0.element.identifier, score: $0.element.confidence)
        }
        return Found(
            guesses: best, prepare: milliseconds(middle - start), run: milliseconds(ContinuousClock.now - middle))
    }
}

private func milliseconds(_ duration: Duration) -> Double {
    let (seconds, attoseconds) = duration.components
    return Double(seconds) * 1e3 + Double(attoseconds) / 1e15
}

/// The same picture with alpha left out, where its colours were not multiplied by it: the contract drops alpha.
private func withoutAlpha(_ image: CGImage) -> CGImage {
    let opaque: CGImageAlphaInfo
    switch image.alphaInfo {
    case .last: opaque = .noneSkipLast
    case .first: opaque = .noneSkipFirst
    default: return image
    }
    let others = image.bitmapInfo.rawValue & ~CGBitmapInfo.alphaInfoMask.rawValue
    guard let space = image.colorSpace, let provider = image.dataProvider else { return image }
    return CGImage(
        width: image.width, height: image.height, bitsPerComponent: image.bitsPerComponent,
        bitsPerPixel: image.bitsPerPixel, bytesPerRow: image.bytesPerRow, space: space,
        bitmapInfo: CGBitmapInfo(rawValue: others | opaque.rawValue), provider: provider, decode: image.decode,
        shouldInterpolate: false, intent: image.renderingIntent) ?? image
}

private func pixels(of picture: CGImage) throws -> Pixels {
    let image = withoutAlpha(picture)
    let (width, height) = (image.width, image.height)
    var rgba = [UInt8](repeating: 0, count: width * height * 4)
    let drawn = rgba.withUnsafeMutableBytes { memory -> Bool in
        guard
            let context = CGContext(
                data: memory.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: width * 4,
                space: image.colorSpace?.model == .rgb ? image.colorSpace! : CGColorSpaceCreateDeviceRGB(),
                bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
        else { return false }
        context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
        return true
    }
    guard drawn else { throw Unusable("The picture cannot be drawn.") }
    var data = [UInt8](repeating: 0, count: width * height * 3)
    for i in 0..<width * height {
        for channel in 0..<3 { data[i * 3 + channel] = rgba[i * 4 + channel] }
    }
    return Pixels(data: data, width: width, height: height)
}

private func pixelBuffer(_ source: Pixels) throws -> CVPixelBuffer {
    var made: CVPixelBuffer?
    CVPixelBufferCreate(nil, source.width, source.height, kCVPixelFormatType_32BGRA, nil, &made)
    guard let buffer = made else { throw Unusable("There is not enough memory for the picture.") }
    CVPixelBufferLockBaseAddress(buffer, [])
    defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
    let memory = CVPixelBufferGetBaseAddress(buffer)!.assumingMemoryBound(to: UInt8.self)
    let stride = CVPixelBufferGetBytesPerRow(buffer)
    for y in 0..<source.height {
        for x in 0..<source.width {
            let (from, to) = ((y * source.width + x) * 3, y * stride + x * 4)
            memory[to] = source.data[from + 2]
            memory[to + 1] = source.data[from + 1]
            memory[to + 2] = source.data[from]
            memory[to + 3] = 255
        }
    }
    return buffer
}
