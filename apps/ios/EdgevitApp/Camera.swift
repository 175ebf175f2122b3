import AVFoundation
import CoreImage

/// The newest frame of the back camera, upright; older ones are let go.
final class Camera: NSObject, AVCaptureVideoDataOutputSampleBufferDelegate {
    let session = AVCaptureSession()
    let frames: AsyncStream<CGImage>
    private let give: AsyncStream<CGImage>.Continuation
    private let queue = DispatchQueue(label: "camera")
    private let context = CIContext()

    override init() {
        (frames, give) = AsyncStream.makeStream(of: CGImage.self, bufferingPolicy: .bufferingNewest(1))
        super.init()
    }

    func start() async throws {
        guard await AVCaptureDevice.requestAccess(for: .video) else {
            throw Unusable("The camera was not allowed. Allow it in Settings, or choose a picture.")
        }
        guard let device = AVCaptureDevice.default(for: .video) else {
            throw Unusable("This device has no camera. You can choose a picture.")
        }
        let input = try AVCaptureDeviceInput(device: device)
        let output = AVCaptureVideoDataOutput()
        output.alwaysDiscardsLateVideoFrames = true
        output.setSampleBufferDelegate(self, queue: queue)
        session.beginConfiguration()
        session.sessionPreset = .vga640x480
        guard session.canAddInput(input), session.canAddOutput(output) else {
            throw Unusable("The camera is in use. Close the other app and try again.")
        }
        session.addInput(input)
        session.addOutput(output)
        output.connection(with: .video)?.videoRotationAngle = 90
        session.commitConfiguration()
        queue.async { [session] in session.startRunning() }
    }

    func stop() {
        queue.async { [session] in session.stopRunning() }
        give.finish()
    }

    func captureOutput(_: AVCaptureOutput, didOutput sample: CMSampleBuffer, from _: AVCaptureConnection) {
        guard let buffer = sample.imageBuffer else { return }
        let image = CIImage(cvPixelBuffer: buffer)
        if let found = context.createCGImage(image, from: image.extent) { give.yield(found) }
    }
}
