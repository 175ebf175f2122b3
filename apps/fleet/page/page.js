// Draws what the server says: who is there, who answered, how long each took.

const $ = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const one = document.createElement(tag);
  if (className) one.className = className;
  if (text !== undefined) one.textContent = text;
  return one;
};
const KEPT = 60;
const STRIP = 120;
const LOG = 60;
const STATES = { healthy: "there", suspect: "does not answer", absent: "gone", "another plan": "has another plan" };
const NAMES = { images: "pictures", complete: "by all", partial: "by some", none: "unanswered", shed: "shed" };
const cards = new Map();

function card(member, local) {
  const root = make("li");
  root.dataset.member = member.name;
  const top = root.appendChild(make("div", "top"));
  top.append(make("span", "", member.name));
  const state = top.appendChild(make("span", "state", "not seen yet"));
  root.append(make("div", "knows", `knows ${member.classes.join(", ")}`));
  const ms = root.appendChild(make("div", "ms", "–"));
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${KEPT - 1} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const line = svg.appendChild(document.createElementNS(svg.namespaceURI, "path"));
  root.append(svg);
  const sums = root.appendChild(make("div", "sums"));
  const found = { root, state, ms, line, sums, times: [], here: true, button: null };
  if (local) {
    found.button = root.appendChild(make("button", "", "Pull out"));
    found.button.onclick = () => press(member.name, found.here ? "out" : "in");
  }
  cards.set(member.name, found);
  return root;
}

async function press(name, what) {
  const answer = await fetch(`members/${encodeURIComponent(name)}/${what}`, { method: "POST" }).catch(() => null);
  if (!answer?.ok) note(`${name}: the button did not work`, Date.now() / 1000);
}

function note(text, at) {
  const one = make("li");
  one.append(make("time", "", new Date(at * 1000).toLocaleTimeString()), text);
  $("log").prepend(one);
  while ($("log").children.length > LOG) $("log").lastChild.remove();
}

// A gap where it did not answer.
function draw(one, most) {
  const start = KEPT - one.times.length;
  const height = (ms) => (98 - (96 * Math.min(ms, most)) / most).toFixed(1);
  const steps = one.times.map((ms, i) =>
    ms === null ? "" : `${one.times[i - 1] == null ? "M" : "L"}${start + i} ${height(ms)}`,
  );
  one.line.setAttribute("d", steps.join(""));
}

let deadline = 150;
const events = new EventSource("events");
const on = (kind, act) => events.addEventListener(kind, (event) => act(JSON.parse(event.data)));
events.onopen = () => ($("link").textContent = "Live");
events.onerror = () => ($("link").textContent = "The page's server does not answer; trying again");

on("hello", (plan) => {
  deadline = plan.deadline_ms;
  $("model").textContent = plan.model;
  cards.clear();
  $("members").replaceChildren(...plan.members.map((one) => card(one, plan.local)));
  const [fused, missing] = [plan.accuracy.fused, plan.accuracy.one_missing];
  $("expect").textContent =
    `Measured when the plan was made: ${(fused * 100).toFixed(1)} % right with all members` +
    (missing === null ? "." : `, ${(missing * 100).toFixed(1)} % with the worst one missing.`);
});

on("answer", (found) => {
  const best = found.classes[0];
  $("picture").src = found.picture;
  $("picture").alt = `The picture ${found.image}`;
  $("answer").textContent = best ? `${best.label}  ${(best.score * 100).toFixed(1)} %` : "No answer";
  const outcomes = Object.entries(found.members);
  const silent = outcomes.filter(([, outcome]) => outcome !== "answered");
  const count = outcomes.length - silent.length;
  $("who").textContent =
    `${count} of ${outcomes.length} members, ${found.latency_ms.toFixed(0)} ms` +
    (silent.length ? `; ${silent.map(([name, outcome]) => `${name}: ${outcome}`).join(", ")}` : "");
  const mark = make("li", count === outcomes.length ? "all" : count ? "some" : "none");
  mark.title = $("who").textContent;
  $("strip").append(mark);
  while ($("strip").children.length > STRIP) $("strip").firstChild.remove();
  for (const [name, outcome] of outcomes) {
    const one = cards.get(name);
    one.times.push(outcome === "answered" ? found.took_ms[name] : null);
    if (one.times.length > KEPT) one.times.shift();
    one.ms.textContent = outcome === "answered" ? `${one.times.at(-1).toFixed(1)} ms` : outcome;
    draw(one, Math.min(deadline, Math.max(5, ...one.times.filter((ms) => ms !== null))));
  }
});

on("state", ({ members, tally }) => {
  for (const member of members) {
    const one = cards.get(member.name);
    one.root.dataset.state = member.state;
    one.state.textContent = STATES[member.state];
    one.here = member.here;
    one.sums.textContent = `answered ${tally.members[member.name]?.answered ?? 0}; came back ${member.rejoined} ×`;
    if (!one.button) continue;
    one.button.textContent = member.here ? "Pull out" : "Put back";
    one.button.setAttribute("aria-label", `${one.button.textContent} ${member.name}`);
  }
  $("tally").replaceChildren(
    ...Object.entries(NAMES).map(([key, name]) => {
      const pair = make("div");
      pair.append(make("dt", "", name), make("dd", "", `${tally[key]}`));
      return pair;
    }),
  );
});

on("notice", ({ text, at }) => note(text, at));
