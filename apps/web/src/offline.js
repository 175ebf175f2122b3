// Keeps the built app in the browser: all files of one version together, or the version before.

const FILES = "__FILES__";
// Other apps of this origin have caches too, which are theirs: a name begins with where this one is.
const OWN = `edgevit-app ${self.registration.scope} `;
const CACHE = `${OWN}__VERSION__`;

self.addEventListener("install", (event) => {
  // reload: what the browser kept by itself may be of another version
  const requests = FILES.map((file) => new Request(file, { cache: "reload" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const old = (names) => names.filter((name) => name.startsWith(OWN) && name !== CACHE);
  const clean = caches.keys().then((names) => Promise.all(old(names).map((name) => caches.delete(name))));
  event.waitUntil(clean.then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || new URL(request.url).origin !== self.location.origin) return;
  event.respondWith(
    caches.open(CACHE).then(async (cache) => {
      const found = await cache.match(request, { ignoreSearch: request.mode === "navigate" });
      return found || fetch(request);
    }),
  );
});
