import Foundation

/// Interleaved red, green and blue bytes.
struct Pixels {
    var data: [UInt8]
    let width: Int
    let height: Int
}

private let bits = 22

private func sinc(_ x: Double) -> Double { x == 0 ? 1 : sin(x * .pi) / (x * .pi) }

/// How far a filter reaches, and its value at a distance; nil for the nearest pixel.
private func kernel(_ name: String) -> (reach: Double, at: (Double) -> Double)? {
    switch name {
    case "bilinear": return (1, { max(0, 1 - abs($0)) })
    case "bicubic": return (2, bicubic)
    case "lanczos": return (3, { $0 > -3 && $0 < 3 ? sinc($0) * sinc($0 / 3) : 0 })
    default: return nil
    }
}

private func bicubic(_ signed: Double) -> Double {
    let x = abs(signed)
    if x < 1 { return (1.5 * x - 2.5) * x * x + 1 }
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0
}

/// Which source pixels make a target pixel, and how much of each.
private struct Taps {
    let first: Int
    let weights: [Int]

    init(_ i: Int, from: Int, to: Int, reach: Double, at: (Double) -> Double) {
        let scale = Double(from) / Double(to)
        let widened = max(scale, 1)
        let support = reach * widened
        let centre = (Double(i) + 0.5) * scale
        let start = max(0, Int(centre - support + 0.5))
        let end = min(from, Int(centre + support + 0.5))
        let exact = (start..<end).map { at((Double($0) - centre + 0.5) * (1 / widened)) }
        let total = exact.reduce(0, +)
        first = start
        weights = exact.map {
            let weight = (total == 0 ? $0 : $0 / total) * Double(1 << bits)
            return Int(weight < 0 ? weight - 0.5 : weight + 0.5)
        }
    }
}

private func resizeAlong(
    _ source: Pixels, to: Int, across: Bool, reach: Double, at: (Double) -> Double
) -> Pixels {
    let from = across ? source.width : source.height
    let taps = (0..<to).map { Taps($0, from: from, to: to, reach: reach, at: at) }
    let (width, height) = across ? (to, source.height) : (source.width, to)
    let step = across ? 3 : source.width * 3
    var data = [UInt8](repeating: 0, count: width * height * 3)
    for y in 0..<height {
        for x in 0..<width {
            let tap = taps[across ? x : y]
            let start = across ? y * source.width * 3 + tap.first * 3 : tap.first * step + x * 3
            for channel in 0..<3 {
                var sum = 1 << (bits - 1)
                for (k, weight) in tap.weights.enumerated() {
                    sum += Int(source.data[start + channel + k * step]) * weight
                }
                data[(y * width + x) * 3 + channel] = UInt8(min(255, max(0, sum >> bits)))
            }
        }
    }
    return Pixels(data: data, width: width, height: height)
}

private func nearest(_ source: Pixels, _ width: Int, _ height: Int) -> Pixels {
    var data = [UInt8]()
    data.reserveCapacity(width * height * 3)
    let (stepX, stepY) = (Double(source.width) / Double(width), Double(source.height) / Double(height))
    var y = stepY * 0.5
    for _ in 0..<height {
        var x = stepX * 0.5
        for _ in 0..<width {
            let at = (Int(y) * source.width + Int(x)) * 3
            data.append(contentsOf: source.data[at..<at + 3])
            x += stepX
        }
        y += stepY
    }
    return Pixels(data: data, width: width, height: height)
}

/// The same bytes as Pillow's resize gives.
func resize(_ source: Pixels, _ width: Int, _ height: Int, _ filter: String) -> Pixels {
    if source.width == width && source.height == height { return source }
    guard let (reach, at) = kernel(filter) else { return nearest(source, width, height) }
    let wide = source.width == width
        ? source : resizeAlong(source, to: width, across: true, reach: reach, at: at)
    return wide.height == height
        ? wide : resizeAlong(wide, to: height, across: false, reach: reach, at: at)
}

/// Width and height after resizing, before cropping.
func resizedSize(_ width: Int, _ height: Int, _ rule: Manifest.Preprocess) -> (Int, Int) {
    let tall = Int((Double(rule.size[0]) / rule.cropPct).rounded(.down))
    let wide = Int((Double(rule.size[1]) / rule.cropPct).rounded(.down))
    if rule.cropMode == "squash" { return (wide, tall) }
    let (w, h) = (Double(width), Double(height))
    if rule.cropMode == "center" && tall == wide {
        return width <= height ? (tall, Int(Double(tall) * h / w)) : (Int(Double(tall) * w / h), tall)
    }
    let (down, across) = (h / Double(tall), w / Double(wide))
    let ratio = rule.cropMode == "border" ? max(down, across) : min(down, across)
    return (Int((w / ratio).rounded(.toNearestOrEven)), Int((h / ratio).rounded(.toNearestOrEven)))
}

/// Bytes at the model's size: resized, the centre cut out, what is missing filled.
func toModelSize(_ picture: Pixels, _ rule: Manifest.Preprocess) -> Pixels {
    let (goalHeight, goalWidth) = (rule.size[0], rule.size[1])
    let (resizedWidth, resizedHeight) = resizedSize(picture.width, picture.height, rule)
    let source = resize(picture, resizedWidth, resizedHeight, rule.interpolation)
    let (width, height) = (max(source.width, goalWidth), max(source.height, goalHeight))
    let fill = rule.cropMode == "border"
        ? rule.mean.map { UInt8((255 * $0).rounded(.toNearestOrEven)) } : [0, 0, 0]
    let offsetX = Int((Double(width - goalWidth) / 2).rounded(.toNearestOrEven)) - (width - source.width) / 2
    let offsetY = Int((Double(height - goalHeight) / 2).rounded(.toNearestOrEven)) - (height - source.height) / 2
    var data = [UInt8](repeating: 0, count: goalWidth * goalHeight * 3)
    for row in 0..<goalHeight {
        for column in 0..<goalWidth {
            let (x, y) = (column + offsetX, row + offsetY)
            let there = (0..<source.width).contains(x) && (0..<source.height).contains(y)
            for channel in 0..<3 {
                data[(row * goalWidth + column) * 3 + channel] =
                    there ? source.data[(y * source.width + x) * 3 + channel] : fill[channel]
            }
        }
    }
    return Pixels(data: data, width: goalWidth, height: goalHeight)
}
