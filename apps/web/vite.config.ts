import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import basicSsl from "@vitejs/plugin-basic-ssl";
import { defineConfig, type Plugin } from "vite";

/** The format of the bundle in `model/`: only its runtime is built in. */
function backend(): string {
  try {
    return JSON.parse(readFileSync("model/manifest.json", "utf8")).target.backend;
  } catch {
    throw new Error("model/ holds no bundle. Make the app with: edgevit app new web BUNDLE DIR");
  }
}

/** A service worker that keeps every built file, so that the app opens without a network. */
function offline(): Plugin {
  const fixed = ["./", "app.webmanifest", "icon.svg", "icon-192.png", "icon-512.png"];
  return {
    name: "offline",
    apply: "build",
    generateBundle(_options, bundle) {
      const built = Object.keys(bundle).filter((name) => name !== "index.html" && !name.endsWith(".map"));
      const version = createHash("sha256").update(built.sort().join("\n"));
      version.update(String(bundle["index.html"]?.type === "asset" ? bundle["index.html"].source : ""));
      const source = readFileSync("src/offline.js", "utf8")
        .replace('"__FILES__"', JSON.stringify([...fixed, ...built]))
        .replace("__VERSION__", version.digest("hex").slice(0, 16));
      this.emitFile({ type: "asset", fileName: "offline.js", source });
    },
  };
}

// Threads need a page that shares its process with no other origin. Send the same two headers where you host it.
const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

export default defineConfig(({ mode }) => ({
  base: "./",
  define: { __BACKEND__: JSON.stringify(backend()) },
  plugins: [offline(), ...(mode === "phone" ? [basicSsl()] : [])],
  worker: { format: "es" },
  build: { target: "es2022", assetsInlineLimit: 0, chunkSizeWarningLimit: 1000 },
  optimizeDeps: { exclude: ["onnxruntime-web", "@litertjs/core"] },
  server: { headers },
  preview: { headers },
}));
