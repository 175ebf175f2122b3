import Foundation

/// Something a person can read and act on.
struct Unusable: LocalizedError {
    let errorDescription: String?
    init(_ text: String) { errorDescription = text }
}

/// What an app needs of a bundle's manifest; see edgevit's docs/input-contract.md.
struct Manifest: Decodable {
    struct Model: Decodable {
        let name: String
    }

    struct Target: Decodable {
        let backend: String
        let precision: String
    }

    struct Input: Decodable {
        let name: String
        let kind: String
        let shape: [Int]
    }

    /// How a picture of any size becomes the input.
    struct Preprocess: Decodable {
        let size: [Int]
        let cropPct: Double
        let cropMode: String
        let interpolation: String
        let mean: [Double]
        let std: [Double]
    }

    struct Output: Decodable {
        let name: String
        let kind: String
        let classes: Int
    }

    let schemaVersion: Int
    let model: Model
    let target: Target
    let entry: String
    let input: Input
    let preprocess: Preprocess
    let output: Output
    let labels: [String]
}

/// Reads a manifest and refuses what this app cannot run.
func readContract(_ data: Data) throws -> Manifest {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    let found = try decoder.decode(Manifest.self, from: data)
    guard found.schemaVersion == 1 else { throw Unusable("This app reads manifests of version 1.") }
    guard found.target.backend == "coreml" else {
        throw Unusable("The bundle is in the format \(found.target.backend). Export it with -t coreml.")
    }
    guard found.output.kind != "features" else { throw Unusable("The bundle gives features, not classes.") }
    guard found.input.kind == "image" else { throw Unusable("Export the bundle with --input image.") }
    return found
}
