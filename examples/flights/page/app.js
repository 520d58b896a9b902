// The seat map of one flight, kept live by a callback that the durable object holds.
// The stock capnweb client speaks to the C++ object: no schema, no generated code.
import { newWebSocketRpcSession } from "/capnweb.js";

const $ = (id) => document.getElementById(id);
const socketUrl = (path) => `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;

const state = {
  flight: null,      // the stub of the flight that is shown
  assistant: null,   // the stub of the assistant
  occupants: new Map(),
  generation: 0,     // of the connection; callbacks of an older one are ignored
};

$("name").value = localStorage.getItem("name") ?? "";
$("name").addEventListener("input", () => {
  localStorage.setItem("name", $("name").value.trim());
  for (const seat of state.occupants.keys()) paint(seat);
});
$("who").addEventListener("submit", (event) => event.preventDefault());

const passenger = () => $("name").value.trim();

function setLink(name, text) {
  $("link").dataset.state = name;
  $("link").querySelector("b").textContent = text;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

// ---- the map

const seatElement = (seat) => document.getElementById(`seat-${seat}`);

function buildMap(seats) {
  const rows = new Map();
  for (const { seat } of seats) {
    const row = parseInt(seat, 10);
    if (!rows.has(row)) rows.set(row, []);
    rows.get(row).push(seat);
  }
  const map = $("seats");
  map.replaceChildren();
  for (const [row, names] of [...rows].sort((a, b) => a[0] - b[0])) {
    const line = document.createElement("div");
    line.className = "row";
    const byLetter = new Map(names.map((name) => [name.slice(String(row).length), name]));
    for (const letter of ["A", "B", "C", "", "D", "E", "F"]) {
      if (letter === "" || !byLetter.has(letter)) {
        const gap = document.createElement("span");
        if (letter === "") gap.textContent = row;
        line.append(gap);
        continue;
      }
      const button = document.createElement("button");
      button.type = "button";
      button.className = "seat";
      button.id = `seat-${byLetter.get(letter)}`;
      button.textContent = letter;
      button.addEventListener("click", () => choose(byLetter.get(letter)));
      line.append(button);
    }
    map.append(line);
  }
  map.removeAttribute("aria-busy");
}

function paint(seat, flash = false) {
  const element = seatElement(seat);
  if (!element) return;
  const occupant = state.occupants.get(seat);
  const mine = occupant !== null && occupant === passenger();
  element.classList.toggle("taken", occupant !== null && !mine);
  element.classList.toggle("mine", mine);
  element.disabled = occupant !== null && !mine;
  element.setAttribute("aria-label",
    `Seat ${seat}, ${mine ? "yours" : occupant !== null ? "taken" : "free"}`);
  if (flash) {
    element.classList.remove("flash");
    void element.offsetWidth;  // starts the animation again
    element.classList.add("flash");
  }
}

function count() {
  const taken = [...state.occupants.values()].filter((who) => who !== null).length;
  $("taken").textContent = taken;
  $("free").textContent = state.occupants.size - taken;
  const mine = [...state.occupants].find(([, who]) => who !== null && who === passenger());
  $("mine").textContent = mine
    ? `You have seat ${mine[0]}. Tapping another one moves you.`
    : "Then tap a free seat. Tapping another one moves you.";
}

function update(seat, occupant, flash = true) {
  state.occupants.set(seat, occupant);
  paint(seat, flash);
}

async function choose(seat) {
  notice("");
  if (!passenger()) {
    $("name").focus();
    notice("Your name first, please.");
    return;
  }
  const element = seatElement(seat);
  element.classList.add("pending");
  try {
    await state.flight.assign(seat, passenger());  // answers once the write is safe
  } catch (error) {
    notice(error.message);
  } finally {
    element.classList.remove("pending");
  }
}

// ---- the connection

async function open(flight) {
  const generation = ++state.generation;
  state.flight?.[Symbol.dispose]();
  setLink("connecting", "connecting");
  const stub = newWebSocketRpcSession(socketUrl(`/flights/${encodeURIComponent(flight)}`));
  state.flight = stub;
  stub.onRpcBroken(() => {
    if (generation !== state.generation) return;
    setLink("lost", "reconnecting");
    setTimeout(() => generation === state.generation && open(flight), 1000);
  });
  try {
    // Sent together, in one round trip; the object holds the callback and calls it from now on.
    const watching = stub.watch((seat, occupant) => {
      if (generation !== state.generation) return;
      update(seat, occupant);
      count();
    });
    const seats = await stub.seats();
    await watching;
    if (generation !== state.generation) return;
    state.occupants.clear();
    buildMap(seats);
    for (const { seat, occupant } of seats) update(seat, occupant, false);
    count();
    setLink("live", "live");
  } catch (error) {
    if (generation === state.generation) setLink("lost", "reconnecting");
  }
}

// ---- the assistant

$("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question) return;
  $("question").value = "";
  const say = (className, text) => {
    const line = document.createElement("p");
    line.className = className;
    line.textContent = text;
    $("talk").append(line);
    $("talk").scrollTop = $("talk").scrollHeight;
    return line;
  };
  say("you", question);
  const answer = say("it", "");
  const button = $("ask").querySelector("button");
  button.disabled = true;
  try {
    state.assistant ??= newWebSocketRpcSession(socketUrl("/assistant"));
    const done = await state.assistant.ask($("flight").value, question, (piece) => {
      answer.textContent += piece;
      $("talk").scrollTop = $("talk").scrollHeight;
    });
    $("speed").textContent =
      `${done.model}: ${done.tokens} tokens at ${done.tokensPerSecond.toFixed(0)} tokens/s, in the server's own process.`;
  } catch (error) {
    answer.textContent = error.message;
    state.assistant = null;
  } finally {
    button.disabled = false;
  }
});

// ---- start

const { flights, fares } = await (await fetch("/flights.json")).json();
for (const flight of flights) $("flight").append(new Option(flight, flight));
const wanted = decodeURIComponent(location.hash.slice(1));
if (flights.includes(wanted)) $("flight").value = wanted;
const show = () => {
  location.hash = $("flight").value;
  $("fare").textContent = fares[$("flight").value] ?? "–";
  open($("flight").value);
};
$("flight").addEventListener("change", show);
show();
