import SwiftUI

@main
struct EdgevitApp: App {
    var body: some Scene {
        WindowGroup { ContentView() }
    }
}
